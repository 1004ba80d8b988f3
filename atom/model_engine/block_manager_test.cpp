#include "atom/model_engine/block_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <numeric>

namespace atom {
namespace {

std::vector<int32_t> iota(int32_t first, size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> allocate(BlockManager& blocks, int count) {
  std::vector<int32_t> table;
  for (int i = 0; i < count; ++i) {
    table.push_back(blocks.allocate());
  }
  return table;
}

// Computes `tokens`, makes their full blocks findable and lets go.
std::vector<int32_t> cache(BlockManager& blocks, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> table =
      allocate(blocks, static_cast<int>(blocks.blocks_for(static_cast<int64_t>(tokens.size()))));
  PrefixChain chain;
  blocks.cache_full_blocks(table, tokens, chain);
  blocks.release(table);
  return table;
}

TEST(BlockManager, FindsTheLongestCachedPrefixOfFullBlocks) {
  BlockManager blocks({.num_blocks = 8, .block_size = 4, .salt = 1});
  const std::vector<int32_t> table = cache(blocks, iota(0, 11));
  const auto match = blocks.match_prefix(iota(0, 11), 8);
  EXPECT_THAT(match.blocks, testing::ElementsAre(table[0], table[1]));
  EXPECT_EQ(match.num_unreferenced, 2);
  EXPECT_EQ(blocks.match_prefix(iota(0, 11), 1).blocks.size(), 1U);
  EXPECT_EQ(blocks.match_prefix(iota(0, 7), 8).blocks.size(), 1U);
  EXPECT_TRUE(blocks.match_prefix(iota(1, 11), 8).blocks.empty());
  EXPECT_EQ(blocks.num_free(), 8);
}

TEST(BlockManager, TheSameTokensAfterAnotherPrefixAreAnotherBlock) {
  BlockManager blocks({.num_blocks = 8, .block_size = 2, .salt = 1});
  cache(blocks, {1, 2, 9, 9});
  cache(blocks, {3, 4});
  EXPECT_EQ(blocks.match_prefix(std::vector<int32_t>{3, 4, 9, 9}, 8).blocks.size(), 1U);
  EXPECT_EQ(blocks.match_prefix(std::vector<int32_t>{1, 2, 9, 9}, 8).blocks.size(), 2U);
}

// xxhash64 of eight bytes is a bijection for a given seed, so whoever knows the salt can build two
// blocks of different prefixes with one hash (constants: the xxHash specification). The token check
// must see through.
TEST(BlockManager, ACraftedHashCollisionIsNotAHit) {
  constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ULL, kPrime2 = 0xC2B2AE3D27D4EB4FULL;
  const auto inverse = [](uint64_t odd) {
    uint64_t x = odd;
    for (int i = 0; i < 6; ++i) {
      x *= 2 - odd * x;
    }
    return x;
  };
  const auto round = [&](uint64_t input) { return std::rotl(input * kPrime2, 31) * kPrime1; };
  const auto unround = [&](uint64_t value) {
    return std::rotr(value * inverse(kPrime1), 31) * inverse(kPrime2);
  };
  const auto pair = [](uint64_t value) {
    std::vector<int32_t> tokens(2);
    std::memcpy(tokens.data(), &value, sizeof(value));
    return tokens;
  };
  BlockManager blocks({.num_blocks = 8, .block_size = 2, .salt = 0});
  const std::vector<int32_t> first = {1, 2}, second = {3, 4};
  cache(blocks, first);
  cache(blocks, second);
  const uint64_t h1 = blocks.match_prefix(first, 1).chain.hash;
  const uint64_t h2 = blocks.match_prefix(second, 1).chain.hash;
  constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;
  const uint64_t victim = 0x0000000700000005ULL;  // tokens 5, 7 after `first`
  const uint64_t crafted = unround((h1 + kPrime5 + 8) ^ (h2 + kPrime5 + 8) ^ round(victim));
  std::vector<int32_t> honest = {1, 2, 5, 7};
  cache(blocks, honest);
  const uint64_t hash = blocks.match_prefix(honest, 2).chain.hash;

  std::vector<int32_t> attack = {3, 4};
  const std::vector<int32_t> tail = pair(crafted);
  attack.insert(attack.end(), tail.begin(), tail.end());
  EXPECT_EQ(blocks.match_prefix(attack, 2).blocks.size(), 1U);
  // It does collide: cached, it takes the place of the honest block under that very hash.
  cache(blocks, attack);
  EXPECT_EQ(blocks.match_prefix(attack, 2).chain.hash, hash);
  EXPECT_EQ(blocks.match_prefix(honest, 2).blocks.size(), 1U);
  EXPECT_EQ(blocks.find_fault(std::vector<int32_t>(8)), "");
}

TEST(BlockManager, SharesByReferenceAndEvictsTheLeastRecentlyUsed) {
  BlockManager blocks({.num_blocks = 4, .block_size = 2, .salt = 5});
  const std::vector<int32_t> a = cache(blocks, {1, 1});
  const std::vector<int32_t> b = cache(blocks, {2, 2});
  blocks.acquire(a);
  blocks.acquire(a);
  EXPECT_EQ(blocks.num_free(), 3);
  blocks.release(a);
  blocks.release(a);  // a is now more recently used than b
  EXPECT_EQ(blocks.num_free(), 4);
  const std::vector<int32_t> table = allocate(blocks, 3);
  EXPECT_EQ(table[2], b[0]);
  EXPECT_TRUE(blocks.match_prefix(std::vector<int32_t>{2, 2}, 1).blocks.empty());
  EXPECT_EQ(blocks.match_prefix(std::vector<int32_t>{1, 1}, 1).blocks, a);
}

TEST(BlockManager, AContinuationIsEvictedBeforeItsPrefix) {
  BlockManager blocks({.num_blocks = 3, .block_size = 1, .salt = 5});
  cache(blocks, {1, 2, 3});
  allocate(blocks, 1);
  EXPECT_EQ(blocks.match_prefix(iota(1, 3), 3).blocks.size(), 2U);
  allocate(blocks, 1);
  EXPECT_EQ(blocks.match_prefix(iota(1, 3), 3).blocks.size(), 1U);
}

TEST(BlockManager, ForgottenBlocksAreNotFoundAndStayConsistent) {
  BlockManager blocks({.num_blocks = 4, .block_size = 2, .salt = 5});
  const std::vector<int32_t> table = cache(blocks, {1, 2, 3, 4});
  blocks.forget(std::span(table).subspan(1));
  EXPECT_EQ(blocks.match_prefix(iota(1, 4), 2).blocks.size(), 1U);
  EXPECT_EQ(blocks.find_fault(std::vector<int32_t>(4)), "");
  blocks.forget_all();
  EXPECT_TRUE(blocks.match_prefix(iota(1, 4), 2).blocks.empty());
  EXPECT_EQ(blocks.find_fault(std::vector<int32_t>(4)), "");
}

TEST(BlockManager, FindFaultSeesALeakAndADoubleOwner) {
  BlockManager blocks({.num_blocks = 4, .block_size = 2});
  std::vector<int32_t> owners(4);
  const int32_t block = blocks.allocate();
  EXPECT_THAT(blocks.find_fault(owners), testing::HasSubstr("1 references but 0 owners"));
  owners[static_cast<size_t>(block)] = 1;
  EXPECT_EQ(blocks.find_fault(owners), "");
  owners[static_cast<size_t>(block)] = 2;
  EXPECT_NE(blocks.find_fault(owners), "");
}

TEST(BlockManagerDeathTest, ReleasingTwiceStopsTheProcess) {
  BlockManager blocks({.num_blocks = 4, .block_size = 2});
  const std::vector<int32_t> table = allocate(blocks, 1);
  blocks.release(table);
  EXPECT_DEATH(blocks.release(table), "released twice");
}

}  // namespace
}  // namespace atom
