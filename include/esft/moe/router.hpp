// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The `router` concept: from logits to K experts and their gate weights per token, and back.

#include <esft/backend/backend.hpp>
#include <esft/core/error.hpp>

#include <concepts>
#include <string>

namespace esft {

/// Decision of a router for T tokens, in the backend's memory.
template <class Backend>
struct routing {
  tensor_t<Backend, std::int32_t, 2> ids;                 ///< @shape [T, K] distinct in [0, E) per row, or `no_expert` for an empty slot
  tensor_t<Backend, accum_t<Backend>, 2> weights;         ///< @shape [T, K] factor on the expert's output; 0 for an empty slot
  tensor_t<Backend, accum_t<Backend>, 2> probabilities;   ///< @shape [T, E] the affinities before selection
  /// What a load-balance loss counts where it is not `ids`: the choices before a capacity took some away. Empty: `ids`. @shape [T, C]
  tensor_t<Backend, std::int32_t, 2> counted{};
};

/// A router chooses experts from logits. Laws (tests/laws): K distinct ids in range for any bit pattern of the logits, empty slots apart,
/// which cost no row; ties go to the lower id; the backward equals central differences while the choice is constant.
/// - `active()`: K.
/// - `route(backend, logits[T,E]) -> routing`
/// - `backward(backend, routing, dweights[T,K], dprobabilities[T,E], dlogits[T,E])`: overwrites dlogits; `dprobabilities` (an auxiliary
///   loss's gradient) may be an empty view; `dweights` of empty slots hold anything.
template <class R, class Backend>
concept router = backend<Backend> && requires(const R& r, Backend& b, view_t<Backend, const accum_t<Backend>, 2> sums,
                                              view_t<Backend, accum_t<Backend>, 2> sums_out, const routing<Backend>& decision) {
  { r.active() } -> std::convertible_to<index>;
  { r.route(b, sums) } -> std::same_as<routing<Backend>>;
  r.backward(b, decision, sums, sums, sums_out);
};

/// A router whose choice takes a bias of the layer: `route(backend, logits[T,E], bias[E] or empty)`.
template <class R, class Backend>
concept biased_router = router<R, Backend> && requires(const R& r, Backend& b, view_t<Backend, const accum_t<Backend>, 2> logits,
                                                       view_t<Backend, const accum_t<Backend>, 1> bias) {
  { r.route(b, logits, bias) } -> std::same_as<routing<Backend>>;
};

/// Routes with the layer's bias on the choice where there is one. @pre such a bias comes with a router that takes it
template <class Backend, router<Backend> Router>
[[nodiscard]] routing<Backend> route_with_bias(Backend& backend, const Router& choose, view_t<Backend, const accum_t<Backend>, 2> logits,
                                               view_t<Backend, const accum_t<Backend>, 1> bias) {
  if constexpr (biased_router<Router, Backend>) {
    return choose.route(backend, logits, bias);
  } else {
    ESFT_EXPECTS(bias.size() == 0, "this router takes no bias on its choice");
    return choose.route(backend, logits);
  }
}

/// A router that weighs experts which it did not choose: `weigh(backend, probabilities[T,E], ids[T,K], weights[T,K])` overwrites `weights`
/// with those of `route` for these experts and affinities, 0 in empty slots. For its own choice they are what `route` gave, bit for bit,
/// and `backward` takes such decisions: in a row any distinct ids, any slots empty.
template <class R, class Backend>
concept weighing_router = router<R, Backend> && requires(const R& r, Backend& b, view_t<Backend, const accum_t<Backend>, 2> probabilities,
                                                         view_t<Backend, const std::int32_t, 2> ids,
                                                         view_t<Backend, accum_t<Backend>, 2> weights) {
  r.weigh(b, probabilities, ids, weights);
};

/// Weighs experts that the router did not choose. @throws usage_error for a router that does not
template <class Backend, router<Backend> Router>
void weigh_with(Backend& backend, const Router& choose, view_t<Backend, const accum_t<Backend>, 2> probabilities,
                view_t<Backend, const std::int32_t, 2> ids, view_t<Backend, accum_t<Backend>, 2> weights) {
  if constexpr (weighing_router<Router, Backend>) {
    choose.weigh(backend, probabilities, ids, weights);
  } else {
    std::string name;
    if constexpr (requires { std::string(Router::name); }) name = " " + std::string(Router::name);
    throw usage_error("the router" + name + " does not weigh experts that it did not choose: force their weights with them, or give it a "
                      "member `weigh`");
  }
}

}  // namespace esft
