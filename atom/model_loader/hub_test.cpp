// Names, cache layout and offline behaviour; transfers are tested by tests/hub on the real program.
#include "atom/model_loader/hub.h"

#include "atom/model_loader/digest.h"
#include "atom/model_loader/hub_cache.h"
#include "atom/model_loader/test_files.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::TempDir;
using testing::write_file;

const std::string kCommit(40, 'a');

std::string digest_of(Digest::Kind kind, std::string_view text, size_t piece) {
  Digest digest(kind);
  for (size_t at = 0; at < text.size(); at += piece) {
    digest.update(bytes_of(text.substr(at, piece)));
  }
  return digest.finish();
}

TEST(Digest, MatchesThePublishedVectors) {
  using enum Digest::Kind;
  EXPECT_EQ(digest_of(kSha256, "", 1),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest_of(kSha256, "abc", 1),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest_of(kSha256, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 5),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest_of(kSha256, std::string(1'000'000, 'a'), 997),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(digest_of(kSha1, "abc", 2), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(digest_of(kSha1, std::string(1'000'000, 'a'), 64),
            "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  for (size_t size = 50; size < 130; ++size) {  // every padding case, split anywhere
    const std::string text(size, 'x');
    EXPECT_EQ(digest_of(kSha256, text, 1), digest_of(kSha256, text, 64)) << size;
    EXPECT_EQ(digest_of(kSha1, text, 7), digest_of(kSha1, text, 1000)) << size;
  }
}

TEST(HubName, ParsesNamesAndRevisions) {
  EXPECT_EQ(parse_hub_name("Qwen/Qwen3-0.6B")->id, "Qwen/Qwen3-0.6B");
  EXPECT_EQ(parse_hub_name("Qwen/Qwen3-0.6B")->revision, "main");
  EXPECT_EQ(parse_hub_name("gpt2")->id, "gpt2");
  EXPECT_EQ(parse_hub_name("a/b@refs/pr/1")->revision, "refs/pr/1");
  for (const char* bad :
       {"", "/", "a/", "/a", "a/b/c", "a--b/c", "../x", "a/..", "a b/c", "a/b@", "a/b@../x",
        "a/b@x..y", "a/b@/x", "-a/b", "a/b.", "a/b@.git", "a/b@x/.y", "a\n/b"}) {
    EXPECT_FALSE(parse_hub_name(bad)) << bad;
  }
}

// What huggingface_hub leaves for a model of two files.
fs::path write_snapshot(const fs::path& cache, const std::string& folder) {
  const fs::path snapshot = cache / folder / "snapshots" / kCommit;
  fs::create_directories(snapshot);
  fs::create_directories(cache / folder / "refs");
  write_file(cache / folder / "refs" / "main", kCommit);
  testing::write_tiny_model(snapshot);
  write_file(snapshot / "tokenizer.json", "{}");
  return snapshot;
}

ModelSourceConfig source(const fs::path& cache, std::string model) {
  ModelSourceConfig config;
  config.model = std::move(model);
  config.hub_cache_dir = cache;
  config.hub_offline = true;
  return config;
}

TEST(ResolveModel, TakesExistingPathsAsTheyAre) {
  TempDir dir;
  EXPECT_EQ(*resolve_model(source(dir / "cache", dir.path())), dir.path());
  EXPECT_REFUSED(resolve_model(source(dir / "cache", "./not/here")), "./not/here", "no such file");
  EXPECT_REFUSED(resolve_model(source(dir / "cache", "not_here.gguf")), "not_here.gguf",
                 "no such file");
  EXPECT_REFUSED(resolve_model(source(dir / "cache", "a/b/c")), "a/b/c", "not a hub name");
}

TEST(ResolveModel, FindsWholeSnapshotsOffline) {
  TempDir dir;
  const fs::path snapshot = write_snapshot(dir.path(), "models--org--tiny");
  EXPECT_EQ(*resolve_model(source(dir.path(), "org/tiny")), snapshot);
  EXPECT_EQ(*resolve_model(source(dir.path(), "org/tiny@main")), snapshot);
  EXPECT_EQ(*resolve_model(source(dir.path(), "org/tiny@" + kCommit)), snapshot);
  write_snapshot(dir.path(), "models--legacy");
  EXPECT_TRUE(resolve_model(source(dir.path(), "legacy")));
}

TEST(ResolveModel, NamesWhatAnOfflineSnapshotLacks) {
  TempDir dir;
  EXPECT_REFUSED(resolve_model(source(dir.path(), "org/tiny")), "org/tiny", "HF_HUB_OFFLINE",
                 dir.path());
  const fs::path snapshot = write_snapshot(dir.path(), "models--org--tiny");
  EXPECT_REFUSED(resolve_model(source(dir.path(), "org/tiny@v2")), "org/tiny", "HF_HUB_OFFLINE");
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json"}) {
    const std::string content = testing::read_file(snapshot / file);
    fs::remove(snapshot / file);
    EXPECT_REFUSED(resolve_model(source(dir.path(), "org/tiny")), std::string("missing: ") + file);
    write_file(snapshot / file, content);
  }
  fs::remove(snapshot / "model.safetensors");
  fs::create_symlink("../../blobs/gone",
                     snapshot / "model.safetensors");  // a link whose blob was pruned
  EXPECT_REFUSED(resolve_model(source(dir.path(), "org/tiny")), "missing: model.safetensors");
  fs::remove(snapshot / "model.safetensors");
  write_file(snapshot / "model.safetensors.index.json",
             R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})");
  write_file(snapshot / "s1.safetensors", "x");
  EXPECT_REFUSED(resolve_model(source(dir.path(), "org/tiny")), "missing: s2.safetensors");
}

TEST(HubCache, LinksLikeHuggingfaceHub) {
  TempDir dir;
  const HubCache cache(dir.path(), {.id = "org/tiny"});
  ASSERT_TRUE(cache.create_directories());
  write_file(cache.blob("e1"), "one");
  write_file(cache.blob("e2"), "two");
  for (const char* etag : {"e1", "e2"}) {  // the second replaces the first
    ASSERT_TRUE(cache.link(kCommit, "config.json", etag));
    EXPECT_EQ(fs::read_symlink(cache.snapshot_dir(kCommit) / "config.json"),
              fs::path("../../blobs") / etag);
  }
  EXPECT_EQ(testing::read_file(cache.snapshot_dir(kCommit) / "config.json"), "two");
  EXPECT_FALSE(cache.find_snapshot());
  ASSERT_TRUE(cache.write_ref(kCommit));
  EXPECT_EQ(testing::read_file(dir / "models--org--tiny/refs/main"), kCommit);
  EXPECT_EQ(cache.find_snapshot(), cache.snapshot_dir(kCommit));
  write_file(dir / "models--org--tiny/refs/main", "../../../etc");
  EXPECT_FALSE(cache.find_snapshot());
}

}  // namespace
}  // namespace atom
