#include "base/file.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <string>

#include "tests/support/child_process.h"

namespace phasor {
namespace {

std::string FreshFolder(const std::string& name) {
  const std::string folder =
      ::testing::TempDir() + "phasor_file_test_" + name + "_" + std::to_string(::getpid());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

int CountFiles(const std::string& folder) {
  int n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

void Put(const std::string& path, const std::string& text) {
  auto writer = AtomicFileWriter::Create(path);
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  ASSERT_TRUE(writer->Write(text).ok());
  ASSERT_TRUE(writer->Commit().ok());
}

TEST(AtomicFileWriter, WithoutCommitTheOldFileStaysAndNothingElse) {
  const std::string folder = FreshFolder("abandoned"), path = folder + "/a";
  Put(path, "old");
  {
    auto writer = AtomicFileWriter::Create(path);
    ASSERT_TRUE(writer.ok() && writer->Write("new").ok());
    EXPECT_EQ(CountFiles(folder), 2);
  }
  EXPECT_EQ(CountFiles(folder), 1);
  EXPECT_EQ(ReadFile(path).value(), "old");
  std::filesystem::remove_all(folder);
}

TEST(AtomicFileWriter, WriteAtChangesBytesInTheMiddleAndWriteGoesOnAtTheEnd) {
  const std::string folder = FreshFolder("write_at"), path = folder + "/a";
  auto writer = AtomicFileWriter::Create(path);
  ASSERT_TRUE(writer.ok() && writer->Write("0123456789").ok());
  ASSERT_TRUE(writer->WriteAt(3, "abc", 3).ok());
  ASSERT_TRUE(writer->Write("!").ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(ReadFile(path).value(), "012abc6789!");
  std::filesystem::remove_all(folder);
}

TEST(AtomicFileWriter, TwoWritersOfOnePathDoNotMixAndTheLastWins) {
  const std::string folder = FreshFolder("two"), path = folder + "/a";
  auto first = AtomicFileWriter::Create(path);
  auto second = AtomicFileWriter::Create(path);
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(first->Write("first").ok() && second->Write("2").ok());
  ASSERT_TRUE(second->Commit().ok() && first->Commit().ok());
  EXPECT_EQ(ReadFile(path).value(), "first");
  EXPECT_EQ(CountFiles(folder), 1);
  std::filesystem::remove_all(folder);
}

TEST(AtomicFileWriter, LeftoversOfAKilledWriterGoAndFilesOfOthersStay) {
  const std::string folder = FreshFolder("killed"), path = folder + "/a";
  const std::string hex = "0123456789abcdef";
  // Like a temporary file, but of another target, or with another ending.
  for (const char* name :
       {"/b.tmp-1-0123456789abcdef", "/a.tmp-backup", "/a.tmp-1-0123456789abcdeg",
        "/a.tmp-x-0123456789abcdef", "/.tmp-1-0123456789abcdef"}) {
    Put(folder + name, "mine");
  }
  const pid_t child = testing::StartChild([&] {
    auto writer = AtomicFileWriter::Create(path);
    if (!writer.ok() || !writer->Write("half of it").ok()) return 1;
    ::raise(SIGKILL);
    return 2;
  });
  ASSERT_EQ(testing::WaitForChild(child), -SIGKILL);
  ASSERT_EQ(CountFiles(folder), 6);
  Put(path, "whole");
  EXPECT_EQ(CountFiles(folder), 6);  // the leftover went, the file came
  EXPECT_EQ(ReadFile(path).value(), "whole");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace phasor
