// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax over all experts, then the best groups of bound experts as a whole: how a model with fine experts plays one with coarse ones.

#include <esft/moe/routers/softmax_topk.hpp>

#include <string_view>

namespace esft {

/// s = softmax(z); the affinity of a group of G neighbouring experts is the mean of their s; a token takes the K / G groups of the largest
/// affinity with all their experts, each at g = scale * affinity, or affinity / sum over the chosen experts where `normalise` is set.
/// Groups of one are `softmax_topk_router`. @source arXiv 2407.01906, appendix B; that a token takes K / G groups is our reading
class grouped_experts_router {
 public:
  static constexpr std::string_view name = "grouped-experts";

  /// @pre 1 <= active <= E; the size of a group divides K and E; scale > 0
  grouped_experts_router(index active, index group_size, bool normalise = false, double scale = 1)
      : ungrouped_(active, normalise, scale), group_size_(group_size), normalise_(normalise), scale_(scale) {
    ESFT_EXPECTS(group_size >= 1, "a group has at least one expert");
  }

  [[nodiscard]] index active() const noexcept { return ungrouped_.active(); }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    using A = accum_t<Backend>;
    ESFT_EXPECTS(active() >= 1 && active() <= logits.extent(1), "a token takes between 1 and E experts");
    ESFT_EXPECTS(logits.extent(1) % group_size_ == 0 && active() % group_size_ == 0, "tokens take whole groups of equal size");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{logits.extent(0), active()}),
                            backend.template make_tensor<A>(extents<2>{logits.extent(0), active()}),
                            backend.template make_tensor<A>(logits.shape())};
    backend.for_each(logits.extent(0), forward_row<Backend>{logits, result.ids.view(), result.weights.view(),
                                                            result.probabilities.view(), group_size_, normalise_,
                                                            static_cast<A>(scale_)});
    return result;
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    ungrouped_.backward(backend, decision, dweights, dprobabilities, dlogits, group_size_);
  }

  /// One token: softmax, then the best groups, each expanded to its experts.
  template <class Backend>
  struct forward_row {
    view_t<Backend, const accum_t<Backend>, 2> logits;
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;
    view_t<Backend, accum_t<Backend>, 2> probabilities;
    index group_size;
    bool normalise;
    accum_t<Backend> scale;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const index experts = logits.extent(1);
      const index chosen = ids.extent(1) / group_size;
      const A* s = &probabilities(t, 0);
      std::int32_t* id = &ids(t, 0);
      A* g = &weights(t, 0);
      detail::softmax_row(&logits(t, 0), experts, &probabilities(t, 0));
      const auto affinity = [&](index group) {
        A sum{};
        for (index e = group * group_size; e < (group + 1) * group_size; ++e) sum += s[e];
        return sum / static_cast<A>(group_size);
      };
      detail::choose_top(affinity, experts / group_size, id, chosen);
      A sum{};
      for (index k = 0; k < chosen; ++k) sum += affinity(id[k]) * static_cast<A>(group_size);
      for (index k = chosen; k-- > 0;) {  // from the last, so that no group is written over before it is read
        const std::int32_t group = id[k];
        for (index m = 0; m < group_size; ++m) {
          g[k * group_size + m] = scale * (normalise ? affinity(group) / sum : affinity(group));
          id[k * group_size + m] = static_cast<std::int32_t>(group * group_size + m);
        }
      }
    }
  };

 private:
  softmax_topk_router ungrouped_;
  index group_size_;
  bool normalise_;
  double scale_;
};

}  // namespace esft
