#!/usr/bin/env python3
"""The house checks must catch what they are for: each test builds a small tree and runs a script."""
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts")
LAYERS = "include/phasor -1\nsrc/base 0\nsrc/ops 3.5\nsrc/position 4\nsrc/kvcodec 4\napps 10\n"


class Tree(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = self.folder.name
        self.write("layers.txt", LAYERS)
        self.write("allow.txt", "")
        self.write("Makefile", "run:\n")
        self.write("include/phasor/status.h", "#pragma once\n")
        self.write("src/base/file.h", '#include <vector>\n#include "phasor/status.h"\n')
        self.write("README.md", "Nothing here.\n")

    def tearDown(self):
        self.folder.cleanup()

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def run_script(self, name, *arguments):
        command = [sys.executable, os.path.join(SCRIPTS, name), "--root", self.root, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


class Layers(Tree):
    def check(self):
        return self.run_script("check_layers.py", "--layers", os.path.join(self.root, "layers.txt"))

    def expect_offence(self, *texts):
        code, output = self.check()
        self.assertEqual(code, 1, output)
        for text in texts:
            self.assertIn(text, output)

    def test_lower_ranks_and_own_folder_pass(self):
        self.write("src/ops/a.h", '#include "base/file.h"\n')
        self.write("src/ops/a.cc", '#include "ops/a.h"\n#include "phasor/status.h"\n')
        code, output = self.check()
        self.assertEqual(code, 0, output)

    def test_a_higher_layer_is_refused_with_its_chain(self):
        self.write("src/kvcodec/k.h", "")
        self.write("src/ops/a.h", '#include "kvcodec/k.h"\n')
        self.write("src/ops/a.cc", '\n#include "ops/a.h"\n')
        self.expect_offence("src/ops/a.h:1:", "a higher layer",
                            "src/ops/a.cc -> src/ops/a.h -> src/kvcodec/k.h")

    def test_siblings_never_meet(self):
        self.write("src/position/p.h", "")
        self.write("src/kvcodec/k.cc", '#include "position/p.h"\n')
        self.expect_offence("src/kvcodec/k.cc:1:", "a sibling")

    def test_tests_may_include_anything_but_sources_no_tests(self):
        self.write("src/position/p.h", "")
        self.write("src/kvcodec/k_test_util.h", "")
        self.write("src/kvcodec/k_test.cc", '#include "position/p.h"\n#include "gtest/gtest.h"\n')
        self.assertEqual(self.check()[0], 0)
        self.write("src/kvcodec/k.cc", '#include "kvcodec/k_test_util.h"\n')
        self.expect_offence("includes the test file")

    def test_third_party_needs_angle_brackets_and_own_files_quotes(self):
        self.write("src/ops/a.cc", '#include "fmt/format.h"\n#include <base/file.h>\n')
        self.expect_offence("a.cc:1:", "angle brackets", "a.cc:2:", "use quotes")

    def test_intrinsics_stay_in_kernel_files(self):
        self.write("src/ops/a_kernel_avx2.cc", "#include <immintrin.h>\n")
        self.assertEqual(self.check()[0], 0)
        self.write("src/ops/a.cc", "#include <immintrin.h>\n")
        self.expect_offence("src/ops/a.cc:1: <immintrin.h>")

    def test_a_folder_without_rank_and_a_cycle_are_refused(self):
        self.write("src/new/a.cc", "")
        self.expect_offence("no rank")
        self.write("src/ops/a.h", '#include "ops/b.h"\n')
        self.write("src/ops/b.h", '#include "ops/a.h"\n')
        self.expect_offence("include cycle: src/ops/a.h -> src/ops/b.h -> src/ops/a.h")


class Sizes(Tree):
    def check(self):
        return self.run_script("check_sizes.py", "--allow", os.path.join(self.root, "allow.txt"))

    def test_the_hard_limit_and_the_allow_list(self):
        self.write("src/base/a.cc", "\n" * 800)
        code, output = self.check()
        self.assertEqual(code, 0, output)
        self.assertIn("warning: src/base/a.cc: 800 lines", output)
        self.write("src/base/a.cc", "\n" * 801)
        code, output = self.check()
        self.assertEqual(code, 1, output)
        self.assertIn("expected at most 800 lines, found 801", output)
        self.write("allow.txt", "src/base/a.cc  # one table\n")
        self.assertEqual(self.check()[0], 0)
        self.write("allow.txt", "src/base/a.cc\n")
        self.assertNotEqual(self.check()[0], 0)

    def test_long_functions_are_named_and_long_classes_are_not(self):
        body = "  x();\n" * 60
        self.write("src/base/a.cc", "namespace n {\nclass A {\n" + "  int a;\n" * 70 + "};\n"
                   "void Long(int x = 1) {\n  if (x) {\n" + body + "  }\n  Use('{', \"{\");\n}\n"
                   "void Short() { Use(1'000, \"}\"); }\n}\n")
        code, output = self.check()
        self.assertEqual(code, 0, output)
        self.assertIn("a.cc:74: function of 65 lines", output)
        self.assertIn("0 errors, 1 warnings", output)


class Docs(Tree):
    def check(self, text):
        self.write("README.md", text)
        return self.run_script("check_docs.py")

    def test_what_exists_passes(self):
        code, output = self.check(
            "`src/base/file.h`, `src/base/`, `src/*/file.h`, [link](src/base/file.h#top), "
            "`src/<kind>/<id>.cc`, `build/release/phasor`, `make run`, {a,b}: "
            "`src/base/file.{h,h}`\n```\ncp src/none.h x\nmake run\n```\n")
        self.assertEqual(code, 0, output)

    def test_what_does_not_exist_is_named(self):
        for text, expected in (("`src/base/none.h`", "`src/base/none.h`"),
                               ("[link](docs/none.md)", "docs/none.md"),
                               ("```\nmake nothing\n```", "make nothing"),
                               ("`scripts/none.sh run`", "scripts/none.sh")):
            code, output = self.check(text)
            self.assertEqual(code, 1, text)
            self.assertIn(expected, output)


if __name__ == "__main__":
    unittest.main()
