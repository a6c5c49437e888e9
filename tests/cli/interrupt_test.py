#!/usr/bin/env python3
"""Ctrl-C: stops an answer and not the program; twice within two seconds ends it with 130."""
import os
import pty
import select
import signal
import subprocess
import termios
import time

import support

# Far more tokens than the machine gives before the test interrupts.
ENDLESS = ("-c", "2000000", "--ignore-eos", "--temp", "0", "-ctk", "f16", "-ctv", "f16", "-t", "1")


class Terminal:
    """The program with a pseudo-terminal for stdin, stdout and stderr, as a person has it."""

    def __init__(self, env, *arguments):
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.process = subprocess.Popen(
            [support.PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, env=env,
            start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(
                0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.output = b""

    def pump(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            try:
                self.output += os.read(self.master, 65536)
            except OSError:  # the program has gone
                return False
        return True

    def wait_for(self, condition, what):
        end = time.monotonic() + support.TIMEOUT_S
        while not condition(self.output):
            if time.monotonic() > end or not self.pump(0.2):
                raise AssertionError(f"waited for {what}, found {self.output[-500:]!r}")

    def type(self, text):
        os.write(self.master, text)

    def exit_code(self):
        end = time.monotonic() + support.TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < end:
            self.pump(0.1)
        while self.pump(0.1) and select.select([self.master], [], [], 0)[0]:
            pass
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


class Interrupt(support.CliTest):
    def terminal(self, *arguments):
        terminal = Terminal(self.env, *arguments)
        self.addCleanup(terminal.close)
        return terminal

    def chat(self):
        terminal = self.terminal("run", self.hf_copy(chat_template=support.CHATML), *ENDLESS)
        terminal.wait_for(lambda out: out.endswith(b"> "), "the first prompt")
        return terminal

    def ask(self, terminal, text=b"hello\n"):
        start = len(terminal.output)
        terminal.type(text)
        terminal.wait_for(lambda out: len(out) > start + 200, "an answer")

    def test_an_answer_stops_with_statistics_and_exit_code_zero(self):
        terminal = self.terminal("run", support.model("qwen2.gguf"), "-p", "hello", *ENDLESS)
        terminal.wait_for(lambda out: len(out) > 200, "an answer")
        terminal.type(b"\x03")
        self.assertEqual(terminal.exit_code(), 0, terminal.output[-300:])
        self.assertIn(b"tokens/s", terminal.output[-300:])

    def test_json_says_that_it_was_cancelled(self):
        process = subprocess.Popen(
            [support.PROGRAM, "run", support.model("qwen2.gguf"), "-p", "hello", "--json", *ENDLESS],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=support.TIMEOUT_S)
        self.assertEqual(process.returncode, 0, error)
        self.assertIn(b'"finish_reason": "cancelled"', out)

    def test_in_a_chat_the_program_stays_and_answers_the_next_question(self):
        terminal = self.chat()
        for _ in range(2):
            self.ask(terminal)
            terminal.type(b"\x03")
            terminal.wait_for(lambda out: out.endswith(b"> "), "the next prompt")
            self.assertIsNone(terminal.process.poll())
        terminal.type(b"\x04")
        self.assertEqual(terminal.exit_code(), 0)
        self.assertIn(b"tokens/s", terminal.output[-300:])

    def test_twice_at_the_prompt_ends_with_130_and_once_does_not(self):
        terminal = self.chat()
        terminal.type(b"half a question\x03")
        terminal.wait_for(lambda out: b"Ctrl-C again" in out and out.endswith(b"> "), "a hint")
        self.assertIsNone(terminal.process.poll())
        terminal.type(b"\x03")
        self.assertEqual(terminal.exit_code(), 130)

    def test_a_late_second_interrupt_does_not_end_the_chat(self):
        terminal = self.chat()
        terminal.type(b"\x03")
        terminal.wait_for(lambda out: out.count(b"Ctrl-C again") == 1, "a hint")
        time.sleep(2.2)
        terminal.type(b"\x03")
        terminal.wait_for(lambda out: out.count(b"Ctrl-C again") == 2, "a second hint")
        self.ask(terminal)
        self.assertIsNone(terminal.process.poll())

    def test_twice_while_a_long_prompt_is_read_ends_with_130(self):
        text = self.write("long.txt", "hello there " * 20000)
        process = subprocess.Popen(
            [support.PROGRAM, "run", support.model("qwen2.gguf"), "-f", text, "-b", "65536", *ENDLESS],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=support.TIMEOUT_S)
            self.assertEqual(process.returncode, 130)
        else:  # it came between two steps: one line, exit code 1
            self.assertEqual(process.returncode, 1)
            self.assertIn(b"cancelled after", process.communicate()[1])

    def test_an_evaluation_stops_with_one_line_and_exit_code_one(self):
        text = self.text_file(60000)
        process = subprocess.Popen(
            [support.PROGRAM, "eval", "perplexity", support.model("llama_quantized.gguf"), text,
             "-ctk", "f32", "-t", "1", "--cpu-level", "scalar"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=support.TIMEOUT_S)
        self.assertEqual((process.returncode, out), (1, b""))
        self.assertEqual(error.decode().count("phasor: error: "), 1)

    def test_the_attention_bench_stops_with_one_line_and_exit_code_one(self):
        process = subprocess.Popen(
            [support.PROGRAM, "bench", "--attention", "--buffer-mib", "2", "-r", "1000", "-t", "1",
             "--cpu-level", "scalar"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=support.TIMEOUT_S)
        self.assertEqual((process.returncode, out), (1, b""))
        self.assertEqual(error.decode().count("phasor: error: "), 1)


if __name__ == "__main__":
    support.main()
