#include "atom/tokenizer/bpe_model.h"

#include <algorithm>
#include <functional>

#include "atom/core/format.h"
#include "atom/tokenizer/hash.h"
#include "atom/tokenizer/unicode.h"

namespace atom {
namespace {

// Up to this many symbols the lowest rank is found by looking at all of them; above, by a heap.
constexpr size_t kShortWord = 48;

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeModel::reserve_merges(size_t n) {
  merges_.assign(table_size(n), {});
  merge_mask_ = merges_.size() - 1;
}

void BpeModel::insert_merge(uint64_t pair, uint64_t value) {
  for (size_t i = mix_hash(pair) & merge_mask_;; i = (i + 1) & merge_mask_) {
    if (merges_[i].pair != kNoPair && merges_[i].pair != pair) continue;
    filled_ += merges_[i].pair == kNoPair;
    merges_[i] = {pair, value};  // as in `tokenizers`, the last of equal pairs counts
    return;
  }
}

void BpeModel::grow_merges() {
  if ((filled_ + 1) * 2 <= merges_.size()) return;
  std::vector<MergeSlot> old;
  old.swap(merges_);
  reserve_merges(std::max<size_t>(64, filled_ * 2));
  filled_ = 0;
  for (const MergeSlot& s : old) {
    if (s.pair != kNoPair) insert_merge(s.pair, s.value);
  }
}

void BpeModel::add_rank_merges() {
  reserve_merges(vocab_.num_tokens() * 3);
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    const std::string_view token = vocab_.bytes(id);
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const int32_t left = vocab_.find_bytes(token.substr(0, cut));
      const int32_t right = left < 0 ? -1 : vocab_.find_bytes(token.substr(cut));
      if (right < 0) continue;
      grow_merges();
      insert_merge(pair_key(left, right),
                   uint64_t{static_cast<uint32_t>(id)} << 32 | static_cast<uint32_t>(id));
    }
  }
}

Status BpeModel::add_merges(std::span<const Merge> merges) {
  constexpr size_t kBlock = 32;
  if (merges_.empty()) reserve_merges(merges.size());
  for (size_t i = 0; i < merges.size(); i += kBlock) {
    ATOM_RETURN_IF_ERROR(add_merge_block(merges.subspan(i, std::min(kBlock, merges.size() - i))));
  }
  return {};
}

Status BpeModel::add_merge_block(std::span<const Merge> merges) {
  // Left and right stand next to each other in `text`, which makes their concatenation a key as
  // well.
  std::string text;
  std::vector<size_t> ends;
  std::vector<std::string_view> keys;
  std::vector<int32_t> ids(merges.size() * 3);
  bool outside_alphabet = false;
  for (const Merge& m : merges) {
    for (const std::string_view part : {m.left, m.right}) {
      if (!vocab_.byte_level()) {
        text += part;
      } else if (!append_alphabet_bytes(part, text)) {
        outside_alphabet = true;
      }
      ends.push_back(text.size());
    }
  }
  const std::string_view all = text;
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t begin = i == 0 ? 0 : ends[2 * i - 1], middle = ends[2 * i], end = ends[2 * i + 1];
    keys.push_back(all.substr(begin, middle - begin));
    keys.push_back(all.substr(middle, end - middle));
    keys.push_back(all.substr(begin, end - begin));
  }
  vocab_.find_bytes_many(keys, ids.data());
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const std::string joined = std::string(left) + std::string(right);
    const std::string_view parts[3] = {left, right, joined};
    for (int k = 0; k < 3; ++k) {
      if (outside_alphabet) ids[3 * i + k] = vocab_.find(parts[k]);
      if (ids[3 * i + k] >= 0) continue;
      return make_error(
          ErrorCode::kInvalidArgument,
          "merge {} (\"{}\" + \"{}\") needs the token \"{}\", which is not in the vocabulary",
          num_merges_ + i, left.substr(0, 100), right.substr(0, 100), parts[k].substr(0, 100));
    }
    __builtin_prefetch(&merges_[mix_hash(pair_key(ids[3 * i], ids[3 * i + 1])) & merge_mask_]);
  }
  for (size_t i = 0; i < merges.size(); ++i) {
    grow_merges();
    insert_merge(pair_key(ids[3 * i], ids[3 * i + 1]),
                 uint64_t{num_merges_++} << 32 | static_cast<uint32_t>(ids[3 * i + 2]));
  }
  return {};
}

uint64_t BpeModel::merge_of(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  for (size_t i = mix_hash(pair) & merge_mask_;; i = (i + 1) & merge_mask_) {
    if (merges_[i].pair == pair) return merges_[i].value;
    if (merges_[i].pair == kNoPair) return kNoMerge;
  }
}

void BpeModel::set_options(const BpeOptions& options) {
  options_ = options;
  if (merges_.empty()) reserve_merges(0);
  all_bytes_ = true;
  for (int b = 0; b < 256; ++b) {
    if (options.byte_level) {
      const char c = static_cast<char>(b);
      byte_ids_[b] = vocab_.find_bytes({&c, 1});
    } else {
      byte_ids_[b] = vocab_.find(str_format("<0x{:02X}>", b));
    }
    all_bytes_ &= byte_ids_[b] >= 0;
  }
  if (!seams_are_safe()) return;
  seams_ = std::make_unique<SeamTable>();
  for (int32_t id = 0; id < vocab_.size(); ++id) seams_->add_token(vocab_.bytes(id));
}

// Cutting is exact when the first symbols of a piece do not depend on its neighbours (nothing
// vanishes or fuses into an unknown token) and a merge always joins neighbouring text.
bool BpeModel::seams_are_safe() const {
  if (!all_bytes_) return false;
  if (options_.byte_level) return true;
  if (!options_.byte_fallback) return false;
  std::vector<bool> is_fallback(vocab_.size(), false);
  for (const int32_t id : byte_ids_) is_fallback[id] = true;
  return std::none_of(merges_.begin(), merges_.end(), [&](const MergeSlot& m) {
    return m.pair != kNoPair && (is_fallback[m.pair >> 32] || is_fallback[m.pair & UINT32_MAX]);
  });
}

int BpeModel::fallback_byte(int32_t id) const {
  if (!options_.byte_fallback || options_.byte_level) return -1;
  const int32_t* hit = std::find(byte_ids_, byte_ids_ + 256, id);
  return hit == byte_ids_ + 256 ? -1 : static_cast<int>(hit - byte_ids_);
}

void BpeModel::first_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  if (options_.byte_level && all_bytes_) {
    symbols.resize(word.size());
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
    return;
  }
  bool unk_pending = false;
  const auto flush_unk = [&] {
    if (unk_pending) symbols.push_back(options_.unk_id);
    unk_pending = false;
  };
  for (size_t i = 0; i < word.size();) {
    const size_t n = options_.byte_level ? 1 : utf8_length(word[i]);
    const std::string_view piece = word.substr(i, n);
    i += n;
    const int32_t id =
        options_.byte_level ? byte_ids_[static_cast<uint8_t>(piece[0])] : vocab_.find(piece);
    if (id >= 0) {
      flush_unk();
      symbols.push_back(id);
      continue;
    }
    if (options_.byte_fallback && !options_.byte_level &&
        std::all_of(piece.begin(), piece.end(),
                    [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : piece) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    if (options_.unk_id < 0) continue;
    if (!options_.fuse_unk) flush_unk();
    unk_pending = true;
  }
  flush_unk();
}

void BpeModel::merge_short(BpeScratch& s) const {
  size_t n = s.symbols.size();
  int32_t* symbols = s.symbols.data();
  s.pairs.resize(n);
  uint64_t* pairs = s.pairs.data();
  for (size_t i = 0; i + 1 < n; ++i) pairs[i] = merge_of(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    uint64_t lowest = pairs[0];
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i] < lowest) lowest = pairs[i], best = i;
    }
    if (lowest == kNoMerge) break;
    symbols[best] = static_cast<int32_t>(lowest);
    --n;
    std::copy(symbols + best + 2, symbols + n + 1, symbols + best + 1);
    if (best + 1 < n) {
      std::copy(pairs + best + 2, pairs + n, pairs + best + 1);
      pairs[best] = merge_of(symbols[best], symbols[best + 1]);
    }
    if (best > 0) pairs[best - 1] = merge_of(symbols[best - 1], symbols[best]);
  }
  s.symbols.resize(n);
}

// A pair is never formed twice at one place (merging only makes it longer), so an entry of the heap
// is stale exactly when the pair that starts there now has another rank.
void BpeModel::merge_long(BpeScratch& s) const {
  const size_t n = s.symbols.size();
  s.pairs.assign(n, kNoMerge);
  s.next.resize(n);
  s.previous.resize(n);
  s.heap.clear();
  const auto later = std::greater<uint64_t>();
  for (size_t i = 0; i < n; ++i) {
    s.next[i] = static_cast<uint32_t>(i + 1);
    s.previous[i] = static_cast<uint32_t>(i - 1);
    if (i + 1 < n) s.pairs[i] = merge_of(s.symbols[i], s.symbols[i + 1]);
    if (s.pairs[i] != kNoMerge) s.heap.push_back((s.pairs[i] & ~uint64_t{UINT32_MAX}) | i);
  }
  std::make_heap(s.heap.begin(), s.heap.end(), later);
  const auto refresh = [&](uint32_t at, uint32_t right) {
    s.pairs[at] = merge_of(s.symbols[at], s.symbols[right]);
    if (s.pairs[at] == kNoMerge) return;
    s.heap.push_back((s.pairs[at] & ~uint64_t{UINT32_MAX}) | at);
    std::push_heap(s.heap.begin(), s.heap.end(), later);
  };
  while (!s.heap.empty()) {
    const uint64_t top = s.heap.front();
    std::pop_heap(s.heap.begin(), s.heap.end(), later);
    s.heap.pop_back();
    const auto at = static_cast<uint32_t>(top);
    if (s.symbols[at] < 0 || s.pairs[at] == kNoMerge || (s.pairs[at] >> 32) != (top >> 32))
      continue;
    const uint32_t gone = s.next[at];
    s.symbols[at] = static_cast<int32_t>(s.pairs[at]);
    s.symbols[gone] = -1;
    const uint32_t right = s.next[at] = s.next[gone];
    s.pairs[at] = kNoMerge;
    if (right < n) {
      s.previous[right] = at;
      refresh(at, right);
    }
    if (at > 0) refresh(s.previous[at], at);
  }
  s.symbols.erase(std::remove(s.symbols.begin(), s.symbols.end(), -1), s.symbols.end());
}

void BpeModel::encode_word(std::string_view word, BpeScratch& scratch,
                           std::vector<int32_t>& out) const {
  if (word.empty()) return;
  // Looking for seams pays where words seldom repeat: long ones, and those of scripts without
  // spaces.
  const bool cut = seams_ && (word.size() > WordCache::kMaxWord ||
                              (word.size() >= 6 && static_cast<uint8_t>(word.back()) >= 0x80));
  if (!cut) {
    encode_piece(word, true, scratch, out);
    return;
  }
  if (options_.ignore_merges && word.size() <= vocab_.longest_token()) {
    if (const int32_t whole = vocab_.find_bytes(word); whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  size_t begin = 0, left = 0;
  for (size_t at = utf8_length(word[0]); at < word.size();) {
    const size_t n = utf8_length(word[at]);
    if (seams_->is_seam(word.substr(left, at - left), word.substr(at, n))) {
      encode_piece(word.substr(begin, at - begin), false, scratch, out);
      begin = at;
    }
    left = at;
    at += n;
  }
  encode_piece(word.substr(begin), false, scratch, out);
}

void BpeModel::encode_piece(std::string_view word, bool whole_word, BpeScratch& scratch,
                            std::vector<int32_t>& out) const {
  const bool whole_entries = options_.ignore_merges && whole_word;
  const bool cacheable = word.size() <= WordCache::kMaxWord;
  WordCache::Key key;
  WordCache::Entry* entry = nullptr;
  if (cacheable) {
    key = WordCache::make_key(word, whole_entries);
    entry = &scratch.cache.slot(key);
    if (WordCache::matches(*entry, key)) {
      out.insert(out.end(), entry->ids, entry->ids + WordCache::num_ids(*entry));
      return;
    }
  }
  const int32_t whole =
      whole_entries && word.size() <= vocab_.longest_token() ? vocab_.find_bytes(word) : -1;
  if (whole >= 0) {
    scratch.symbols.assign(1, whole);
  } else {
    first_symbols(word, scratch.symbols);
    if (scratch.symbols.size() > kShortWord) {
      merge_long(scratch);
    } else if (scratch.symbols.size() > 1) {
      merge_short(scratch);
    }
  }
  const std::vector<int32_t>& ids = scratch.symbols;
  if (cacheable && ids.size() <= WordCache::kMaxIds) {
    WordCache::store(*entry, key, ids.data(), ids.size());
  }
  out.insert(out.end(), ids.begin(), ids.end());
}

}  // namespace atom
