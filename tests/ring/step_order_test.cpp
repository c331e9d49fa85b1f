// Whether members wait for one another: rings on clocks that count computing alone.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/threads.hpp"

namespace {

namespace ra = ring_attention;

/// Messages are read where the sender wrote them, and take no time.
struct LentMessage {
  std::vector<std::byte> bytes;
  int sent_at = 0, released_at = 0;
  bool released = false;
};

/// What members share.
struct LendingRing {
  int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::tuple<int, int, int>, std::deque<std::shared_ptr<LentMessage>>> messages;  // from, to, tag
};

/// A member whose clock stands still while it waits, but for what it waits for, and that computes for 1 at a
/// step for which keys came, and with its own keys.
class ClockedMember {
 public:
  struct Outgoing {
    std::shared_ptr<LentMessage> message;
    int peer = 0, tag = 0;
    std::span<std::byte> bytes() { return message->bytes; }
  };
  struct Incoming {
    std::shared_ptr<LentMessage> message;
    int peer = 0, tag = 0;
    std::size_t expected = 0;
    bool under_way = false;
    std::span<const std::byte> bytes() const {
      return message ? std::span<const std::byte>(message->bytes) : std::span<const std::byte>();
    }
  };

  ClockedMember(LendingRing& ring, int rank) : ring_(ring), rank_(rank) {}

  int clock() const { return clock_; }
  int computed() const { return computed_; }

  int rank() const { return rank_; }
  int size() const { return ring_.size; }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte>) {
    throw std::logic_error("exchange_keys gathers nothing");
  }
  void fail(const std::string&, ra::Failure) {}

  void prepare(Outgoing& out, int peer, int tag, std::size_t bytes) {
    wait(out);
    out.message = std::make_shared<LentMessage>();
    out.message->bytes.resize(bytes);
    out.peer = peer;
    out.tag = tag;
  }
  void send(Outgoing& out) {
    const std::lock_guard lock(ring_.mutex);
    out.message->sent_at = clock_;
    ring_.messages[{rank_, out.peer, out.tag}].push_back(out.message);
    ring_.changed.notify_all();
  }
  void wait(Outgoing& out) {
    if (!out.message) return;
    std::unique_lock lock(ring_.mutex);
    wait_until(lock, [&] { return out.message->released; });
    clock_ = std::max(clock_, out.message->released_at);
    out.message = nullptr;
  }

  void expect(Incoming& in, int peer, int tag, std::size_t bytes) {
    if (in.message) throw std::logic_error("a place holds a message that was not released");
    in.peer = peer;
    in.tag = tag;
    in.expected = bytes;
    in.under_way = true;
  }
  void wait(Incoming& in) {
    if (!in.under_way) return;
    in.under_way = false;
    std::unique_lock lock(ring_.mutex);
    auto& queue = ring_.messages[{in.peer, rank_, in.tag}];
    wait_until(lock, [&] { return !queue.empty(); });
    in.message = std::move(queue.front());
    queue.pop_front();
    if (in.message->bytes.size() != in.expected) throw std::logic_error("a message of another size");
    clock_ = std::max(clock_, in.message->sent_at);
    keys_came_ = true;
  }
  void release(Incoming& in) {
    if (!in.message) return;
    const std::lock_guard lock(ring_.mutex);
    in.message->released = true;
    in.message->released_at = clock_;
    in.message = nullptr;
    ring_.changed.notify_all();
  }

  void step(int step, int) {
    if (step != 0 && !std::exchange(keys_came_, false)) return;
    ++clock_;
    ++computed_;
  }

 private:
  template <class Condition>
  void wait_until(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    if (!ring_.changed.wait_for(lock, std::chrono::minutes(1), condition)) {
      throw std::runtime_error("a member waited for a minute");
    }
  }

  LendingRing& ring_;
  const int rank_;
  int clock_ = 0, computed_ = 0;
  bool keys_came_ = false;
};
static_assert(ra::RingCommunicator<ClockedMember> && ra::MessageTransport<ClockedMember>);

struct Times {
  int last = 0;       // the largest clock
  int computing = 0;  // of the member that computed the most
};

struct Case {
  int members;
  std::int64_t span;
  int last;  // the largest clock
};

/// One branch whose segments are `span` shards long.
Times exchange(int members, std::int64_t span) {
  constexpr std::int64_t shard = 4;
  ra::AttentionConfig config;
  config.segment_lengths = {span * shard};
  config.dilation_rates = {1};
  config.ring_size = members;
  const ra::CallShape shape{1, members * shard, 1, 1, 2};
  const auto lookup = [](const ra::PatternKey& key) { return ra::make_indices(key); };
  const ra::AttentionPlan plan = ra::detail::plan_call(config, shape, {}, lookup).plan;
  LendingRing ring{members, {}, {}, {}};
  std::vector<Times> times(static_cast<std::size_t>(members));
  test::run_together(members, [&](int rank) {
    ClockedMember member(ring, rank);
    ra::Tensor<float> k(1, shard, 1, 2), v(1, shard, 1, 2);
    ra::engine::exchange_keys<ra::engine::look_ahead, float>(
        {&plan, ra::ShardLayout::contiguous, rank, false}, member, 0, std::as_const(k).view(),
        std::as_const(v).view(), [](int, const auto&, const auto&) {});
    times[static_cast<std::size_t>(rank)] = {member.clock(), member.computed()};
  });
  Times result;
  for (const Times& of : times) {
    result.last = std::max(result.last, of.last);
    result.computing = std::max(result.computing, of.computing);
  }
  return result;
}

}  // namespace

TEST_CASE("members of a segment do not wait for one another", "[ring][steps]") {
  for (const auto& [members, span, last] :
       {Case{4, 2, 2}, Case{4, 3, 3}, Case{4, 4, 4}, Case{6, 4, 4}, Case{7, 4, 4}, Case{8, 2, 2},
        Case{8, 4, 4}, Case{8, 6, 6}, Case{8, 8, 8}, Case{12, 4, 4}, Case{16, 4, 4}, Case{24, 3, 3}}) {
    INFO(members << " members, segments of " << span << " shards");
    const Times times = exchange(members, span);
    CHECK(times.computing == span);
    CHECK(times.last == last);
  }
}

TEST_CASE("members that share a long segment with half of the others wait for a quarter at most",
          "[ring][steps]") {
  for (const auto& [members, span, last] : {Case{10, 5, 6}, Case{12, 6, 7}, Case{16, 8, 10}}) {
    INFO(members << " members, segments of " << span << " shards");
    const Times times = exchange(members, span);
    CHECK(times.computing == span);
    CHECK(times.last <= last);
  }
}
