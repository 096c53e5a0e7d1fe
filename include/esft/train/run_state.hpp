// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The state of a training run as named tensors and strings, and back: all that a resumed run needs to equal the uninterrupted one.

#include <esft/io/safetensors.hpp>
#include <esft/train/trainer.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace esft {

namespace detail {
/// Stable name of a slice's state: role number, layer, expert, factor.
template <class Slice>
std::string slice_name(const Slice& slice) {
  constexpr std::array<const char*, 4> factors{"", ".a", ".b", ".router"};
  return "role" + std::to_string(static_cast<int>(slice.key.role)) + ".layer" + std::to_string(slice.key.layer.value) + ".expert" +
         std::to_string(slice.expert) + factors[static_cast<std::size_t>(slice.key.factor)];
}

template <class Model, class Visit>
void for_each_state_tensor(trainer<Model>& run, Visit&& visit) {
  const auto slices = run.optimizer.slices();
  for (std::size_t i = 0; i < slices.size(); ++i) {
    const auto rows = [&](auto view) {  // files hold row-major order, whatever the backend's
      return matrix_rows{view.reshape(slices[i].shape), slices[i].layout, 0, slices[i].shape[0]};
    };
    visit("master." + slice_name(slices[i]), rows(run.optimizer.master[i]));
    visit("first_moment." + slice_name(slices[i]), rows(run.optimizer.first_moment[i]));
    visit("second_moment." + slice_name(slices[i]), rows(run.optimizer.second_moment[i]));
  }
  for_each_buffer(run.model().parameters, [&](parameter_key key, auto& b) {
    if (!b.moves) return;
    const auto values = b.value.view();
    visit("choice_bias.layer" + std::to_string(key.layer.value),
          matrix_rows{values.reshape(extents<2>{1, values.size()}), matrix_layout{}, 0, 1});
  });
}

template <class A>
void expect_finite_state(const std::string& name, std::span<const A> values) {
  if (std::all_of(values.begin(), values.end(), [](A value) { return std::isfinite(value); })) return;
  throw numerics_error("the state is not saved, as " + name +
                       " holds a NaN or an infinity: training diverged; lower the learning rate or check the data");
}
}  // namespace detail

/// Master weights and moments of every trained slice, and biases that move, in the accumulate type. `backend` and `run` must outlive the
/// write, which throws numerics_error at a NaN or an infinity: what is saved is good.
/// The data order and every random draw are pure functions of (seed, step), so they need no tensors.
template <class Model>
[[nodiscard]] std::vector<tensor_source> state_sources(typename Model::backend_type& backend, trainer<Model>& run) {
  using A = accum_t<typename Model::backend_type>;
  std::vector<tensor_source> sources;
  detail::for_each_state_tensor(run, [&](const std::string& name, auto rows) {
    sources.push_back({name, dtype_v<A>, {rows.size()}, [&backend, rows, name](const byte_sink& sink) {
                         std::vector<A> host(static_cast<std::size_t>(rows.size()));
                         copy_out(backend, rows, std::span<A>(host));
                         detail::expect_finite_state(name, std::span<const A>(host));
                         sink(std::as_bytes(std::span<const A>(host)));
                       }});
  });
  return sources;
}

/// Counters of the run, to be stored as strings beside the tensors.
template <class Model>
[[nodiscard]] std::map<std::string, std::string> state_counters(const trainer<Model>& run) {
  return {{"esft.steps", std::to_string(run.steps)},
          {"esft.updates", std::to_string(run.optimizer.steps)},
          {"esft.skipped", std::to_string(run.skipped)},
          {"esft.consecutive_skips", std::to_string(run.consecutive_skips)}};
}

/// Restores what `state_sources` and `state_counters` saved, and the working weights from the master weights.
/// @throws error (bad input) when the file does not hold exactly the state of this run's trained slices
template <class Model>
void restore_state(typename Model::backend_type& backend, trainer<Model>& run, const safetensors_file& file) {
  using A = accum_t<typename Model::backend_type>;
  const auto fail = [&](const std::string& why) {
    throw error(error_category::bad_input,
                file.path().string() + ": " + why + "; resume with the plan, model and backend of the saved run");
  };
  std::size_t expected = 0;
  detail::for_each_state_tensor(run, [&](const std::string& name, auto rows) {
    const tensor_record* record = file.find(name);
    if (record == nullptr) fail("no state named " + name);
    if (record->type != dtype_v<A> || record->shape != tensor_shape{rows.size()}) fail("the state " + name + " has another type or size");
    std::vector<A> host(static_cast<std::size_t>(rows.size()));
    file.read(*record, std::as_writable_bytes(std::span<A>(host)));
    copy_in(backend, std::span<const A>(host), rows);
    ++expected;
  });
  if (file.tensors().size() != expected) fail("it holds state of parameters that this run does not train");
  const auto counter = [&](const char* key, auto& out) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) fail(std::string("no counter ") + key);
    const std::string& text = found->second;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (problem != std::errc{} || end != text.data() + text.size()) fail(std::string("the counter ") + key + " is not a number");
  };
  counter("esft.steps", run.steps);
  counter("esft.updates", run.optimizer.steps);
  counter("esft.skipped", run.skipped);
  counter("esft.consecutive_skips", run.consecutive_skips);
  run.optimizer.restore_weights(backend);
}

}  // namespace esft
