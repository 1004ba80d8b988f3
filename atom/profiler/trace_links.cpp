#include "atom/profiler/trace_links.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace atom {
namespace {

struct OpenZone {
  const trace::Event* event = nullptr;
  ZoneId id = 0;
};

// Of one thread, by begin; of two that begin together the outer first.
std::vector<OpenZone> zones_of(const trace::ThreadEvents& thread, ZoneId first) {
  std::vector<OpenZone> zones;
  for (const trace::Event& event : thread.events) {
    if (event.category != trace::Category::kMemory) {
      zones.push_back({.event = &event, .id = first});
    }
    ++first;
  }
  std::ranges::sort(zones, [](const OpenZone& a, const OpenZone& b) {
    return std::tuple(a.event->begin_ns, -a.event->end_ns) <
           std::tuple(b.event->begin_ns, -b.event->end_ns);
  });
  return zones;
}

struct Around {
  ZoneId innermost = 0;
  ZoneId annotation = 0;
};

// Calls found(launch, zones around it) for the launches of one thread, in one pass over both.
template <class Found>
void walk(const std::vector<OpenZone>& zones, const std::vector<const DeviceActivity*>& launches,
          const Found& found) {
  std::vector<OpenZone> open;
  size_t next = 0;
  for (const DeviceActivity* launch : launches) {
    const int64_t time = launch->begin_ns;
    while (next < zones.size() && zones[next].event->begin_ns <= time) {
      open.push_back(zones[next++]);
    }
    std::erase_if(open, [&](const OpenZone& zone) { return zone.event->end_ns < time; });
    Around around;
    for (const OpenZone& zone : open) {
      around.innermost = zone.id;
      if (zone.event->category == trace::Category::kUserAnnotation) {
        around.annotation = zone.id;
      }
    }
    found(*launch, around);
  }
}

}  // namespace

TraceLinks link_trace(const TraceData& data) {
  std::unordered_map<uint32_t, std::vector<const DeviceActivity*>> launches;  // by thread
  for (const DeviceActivity& activity : data.device) {
    if (activity.kind == DeviceActivityKind::kLaunch) {
      launches[activity.thread].push_back(&activity);
    }
  }
  TraceLinks links;
  std::unordered_map<uint32_t, ZoneId> annotations;  // by correlation
  ZoneId first = 1;
  for (const trace::ThreadEvents& thread : data.threads) {
    auto& own = launches[static_cast<uint32_t>(thread.thread_id)];
    std::ranges::sort(own, {}, &DeviceActivity::begin_ns);
    walk(zones_of(thread, first), own, [&](const DeviceActivity& launch, const Around& around) {
      if (around.innermost != 0) {
        links.zones[launch.correlation] = around.innermost;
      }
      if (around.annotation != 0) {
        annotations[launch.correlation] = around.annotation;
      }
    });
    first += static_cast<ZoneId>(thread.events.size());
  }
  std::map<std::tuple<ZoneId, int32_t, int32_t>, DeviceSpan> spans;
  for (const DeviceActivity& work : data.device) {
    const auto annotation = annotations.find(work.correlation);
    if (work.kind == DeviceActivityKind::kLaunch || annotation == annotations.end()) {
      continue;
    }
    DeviceSpan& span = spans
                           .try_emplace({annotation->second, work.device, work.stream},
                                        DeviceSpan{.zone = annotation->second,
                                                   .device = work.device,
                                                   .stream = work.stream,
                                                   .begin_ns = work.begin_ns,
                                                   .end_ns = work.end_ns})
                           .first->second;
    span.begin_ns = std::min(span.begin_ns, work.begin_ns);
    span.end_ns = std::max(span.end_ns, work.end_ns);
  }
  for (const auto& [key, span] : spans) {
    links.spans.push_back(span);
  }
  return links;
}

}  // namespace atom
