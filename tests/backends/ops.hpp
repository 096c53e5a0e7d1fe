// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The table of ops: one row each, with how to make inputs of a size and how to run it. Every suite of this folder walks this table.

#include "lab.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/core/token_batch.hpp>

#include <cmath>
#include <utility>

namespace esft::test {

/// Three extents; each op says what they mean to it.
struct sizes {
  index a, b, c;
};

/// How the bound of an op scales.
enum class rule {
  exact,        ///< nothing is rounded beyond the storage of inputs
  products,     ///< linear in |inputs|: the bound follows the sum of absolute products
  elementwise,  ///< a few roundings and one exp (4 ulp) on each element, at the scale of the largest
  reduction,    ///< exp and sums of up to `a` terms, at the scale of the largest
  attention,    ///< the same; stored bf16 outputs may weigh with probabilities of bf16
};

constexpr double factor_of(rule r, sizes s) {
  const auto depth = static_cast<double>(std::max({s.a, s.b, s.c, index{1}}));
  switch (r) {
    case rule::exact:
      return 0;
    case rule::products:
      return 4 * std::sqrt(depth);
    case rule::elementwise:
      return 16;
    case rule::reduction:
    case rule::attention:
      return 32 * std::sqrt(depth);
  }
  return 0;
}

inline std::vector<std::int32_t> random_ids(generator& g, index count, index bound) {
  std::vector<std::int32_t> ids;
  for (index i = 0; i < count; ++i) ids.push_back(g.below(bound));
  return ids;
}
/// Offsets of `experts` groups over `rows` rows: 0 random with empty ones, 1 all rows on one expert, 2 even.
inline std::vector<std::int32_t> make_offsets(generator& g, index rows, index experts, int pattern) {
  std::vector<std::int32_t> offsets{0};
  const std::int32_t hot = g.below(experts);
  for (index e = 0; e < experts; ++e) {
    index end = rows * (e + 1) / experts;
    if (pattern == 0 && e + 1 < experts) end = offsets.back() + (g.below(3) == 0 ? 0 : g.below(rows - offsets.back() + 1));
    if (pattern == 1) end = e >= hot ? rows : 0;
    offsets.push_back(static_cast<std::int32_t>(end));
  }
  return offsets;
}
/// Rows of a dispatch: a permutation of the slots and its inverse, where a quarter of the slots are empty.
inline void add_slots(inputs& in, generator& g, index slots) {
  std::vector<std::int32_t> row_slot(static_cast<std::size_t>(slots));
  for (index i = 0; i < slots; ++i) row_slot[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
  for (index i = slots; i > 1; --i) std::swap(row_slot[static_cast<std::size_t>(i - 1)], row_slot[static_cast<std::size_t>(g.below(i))]);
  std::vector<std::int32_t> slot_row(row_slot.size());
  for (std::size_t r = 0; r < row_slot.size(); ++r) slot_row[static_cast<std::size_t>(row_slot[r])] = static_cast<std::int32_t>(r);
  for (std::size_t r = row_slot.size() - row_slot.size() / 4; r < row_slot.size(); ++r) {
    slot_row[static_cast<std::size_t>(row_slot[r])] = no_expert;
    row_slot[r] = no_expert;
  }
  in.ids["row_slot"] = row_slot;
  in.ids["slot_row"] = slot_row;
}
/// Packed documents of random lengths, of 128 to 256 tokens often a few long ones; key ranges are causal within a document, in half of
/// the cases with many documents no longer than a window, and one query sees nothing.
inline void add_documents(inputs& in, generator& g, index tokens) {
  std::vector<std::int32_t> begin;
  std::vector<std::int32_t> end;
  std::int32_t start = 0;
  const bool many = tokens < 128 || tokens > 256 || g.below(3) == 0;  // else some tiles of keys are seen whole by a tile of queries
  const auto window = static_cast<std::int32_t>(g.below(2) == 0 || !many ? tokens + 1 : 1 + g.below(24));
  for (std::int32_t t = 0; t < tokens; ++t) {
    if (g.below(many ? 40 : 400) == 0) start = t;
    begin.push_back(std::max(start, t + 1 - window));
    end.push_back(t + 1);
  }
  if (tokens > 4) end[4] = begin[4];
  in.ids["key_begin"] = begin;
  in.ids["key_end"] = end;
}

/// Heads of the attention rows: H = 4 query heads share G = 2 key-value heads of width c.
inline inputs make_attention(sizes s, generator& g) {
  inputs in;
  in.value["q"] = g({s.a, 4, s.c});
  in.value["k"] = g({s.a, 2, s.c});
  in.value["v"] = g({s.a, 2, s.c});
  add_documents(in, g, s.a);
  return in;
}

auto as_matrix(const auto& ids, index columns) { return ids.view().reshape(extents<2>{columns == 0 ? 0 : ids.size() / columns, columns}); }

/// Calls `visit(name, rule, make, run)` for every op: `make(sizes, generator)` gives inputs, `run(lab)` gives outputs.
/// @shape a rows, b outputs, c inputs where it is a matrix product
template <class Visit>
void for_each_matrix_op(Visit&& visit) {
  using enum precision;
  const auto mode_of = [](bool accumulate) { return accumulate ? write_mode::accumulate : write_mode::overwrite; };
  for (const bool accumulate : {false, true}) {
    const auto mode = mode_of(accumulate);
    visit(
        accumulate ? "linear+=" : "linear", rule::products,
        [](sizes s, generator& g) {
          return inputs{{{"x", g({s.a, s.c})}, {"w", g({s.b, s.c})}, {"y", g({s.a, s.b})}}, {}, {}};
        },
        [=](auto l) {
          auto y = mode == write_mode::accumulate ? l.template value<2>("y") : l.blank_value(l.template value<2>("y").shape());
          const auto x = l.template value<2>("x");
          const auto w = l.template weights<2>("w");
          l.backend.linear(c(x), operand(l, w), y.view(), mode);
          return outputs{l.read("y", stored, y)};
        });
    visit(
        accumulate ? "linear_dx+=" : "linear_dx", rule::products,
        [](sizes s, generator& g) {
          return inputs{{{"dy", g({s.a, s.b})}, {"w", g({s.b, s.c})}, {"dx", g({s.a, s.c})}}, {}, {}};
        },
        [=](auto l) {
          auto dx = mode == write_mode::accumulate ? l.template value<2>("dx") : l.blank_value(l.template value<2>("dx").shape());
          const auto dy = l.template value<2>("dy");
          const auto w = l.template weights<2>("w");
          l.backend.linear_dx(c(dy), operand(l, w), dx.view(), mode);
          return outputs{l.read("dx", stored, dx)};
        });
    visit(
        accumulate ? "logits_dx+=" : "logits_dx", rule::products,
        [](sizes s, generator& g) {
          return inputs{{{"w", g({s.b, s.c})}, {"dx", g({s.a, s.c})}}, {{"dy", g({s.a, s.b})}}, {}};
        },
        [=](auto l) {
          auto dx = mode == write_mode::accumulate ? l.template value<2>("dx") : l.blank_value(l.template value<2>("dx").shape());
          const auto dy = l.template sum<2>("dy");
          const auto w = l.template weights<2>("w");
          l.backend.logits_dx(c(dy), operand(l, w), dx.view(), mode);
          return outputs{l.read("dx", stored, dx)};
        });
  }
  visit(
      "linear_dw", rule::products,
      [](sizes s, generator& g) {
        return inputs{{{"dy", g({s.a, s.b})}, {"x", g({s.a, s.c})}}, {{"dw", g({s.b, s.c})}}, {}};
      },
      [](auto l) {
        auto dw = l.template weight_sums<2>("dw");
        const auto dy = l.template value<2>("dy");
        const auto x = l.template value<2>("x");
        l.backend.linear_dw(c(dy), c(x), operand(l, dw));
        return outputs{l.read("dw", summed, dw)};
      });
  visit(
      "logits", rule::products,
      [](sizes s, generator& g) {
        return inputs{{{"x", g({s.a, s.c})}, {"w", g({s.b, s.c})}}, {}, {}};
      },
      [](auto l) {
        const auto x = l.template value<2>("x");
        const auto w = l.template weights<2>("w");
        auto y = l.blank_sum(extents<2>{x.extent(0), w.extent(0)});
        l.backend.logits(c(x), operand(l, w), y.view());
        return outputs{l.read("y", summed, y)};
      });
  visit(
      "logits_dw", rule::products,
      [](sizes s, generator& g) {
        return inputs{{{"x", g({s.a, s.c})}}, {{"dy", g({s.a, s.b})}, {"dw", g({s.b, s.c})}}, {}};
      },
      [](auto l) {
        auto dw = l.template weight_sums<2>("dw");
        const auto dy = l.template sum<2>("dy");
        const auto x = l.template value<2>("x");
        l.backend.logits_dw(c(dy), c(x), operand(l, dw));
        return outputs{l.read("dw", summed, dw)};
      });
  for (const int pattern : {0, 1, 2}) {
    constexpr index experts = 5;
    const std::string suffix = pattern == 0 ? "/empty" : pattern == 1 ? "/one" : "/even";
    visit(
        "grouped_linear" + suffix, rule::products,
        [=](sizes s, generator& g) {
          return inputs{{{"x", g({s.a, s.c})}, {"w", g({experts, s.b, s.c})}}, {}, {{"offsets", make_offsets(g, s.a, experts, pattern)}}};
        },
        [](auto l) {
          const auto x = l.template value<2>("x");
          const auto w = l.template weights<3>("w");
          const auto offsets = l.ids("offsets");
          auto y = l.blank_value(extents<2>{x.extent(0), w.extent(1)});
          l.backend.grouped_linear(c(x), operand(l, w), c(offsets), y.view());
          return outputs{l.read("y", stored, y)};
        });
    visit(
        "grouped_linear_dx" + suffix, rule::products,
        [=](sizes s, generator& g) {
          return inputs{{{"dy", g({s.a, s.b})}, {"w", g({experts, s.b, s.c})}}, {}, {{"offsets", make_offsets(g, s.a, experts, pattern)}}};
        },
        [](auto l) {
          const auto dy = l.template value<2>("dy");
          const auto w = l.template weights<3>("w");
          const auto offsets = l.ids("offsets");
          auto dx = l.blank_value(extents<2>{dy.extent(0), w.extent(2)});
          l.backend.grouped_linear_dx(c(dy), operand(l, w), c(offsets), dx.view());
          return outputs{l.read("dx", stored, dx)};
        });
    visit(
        "grouped_linear_dw" + suffix, rule::products,
        [=](sizes s, generator& g) {
          return inputs{{{"dy", g({s.a, s.b})}, {"x", g({s.a, s.c})}},
                        {{"dw", g({3, s.b, s.c})}},
                        {{"offsets", make_offsets(g, s.a, experts, pattern)}, {"selected", {4, 0, 2}}}};
        },
        [](auto l) {
          auto dw = l.template weight_sums<3>("dw");
          const auto dy = l.template value<2>("dy");
          const auto x = l.template value<2>("x");
          const auto offsets = l.ids("offsets");
          l.backend.grouped_linear_dw(c(dy), c(x), c(offsets), std::span(l.host_ids("selected")), operand(l, dw));
          return outputs{l.read("dw", summed, dw)};
        });
  }
}

/// The ops around the matrix products. @shape a rows or tokens, b active experts or vocabulary, c columns
template <class Visit>
void for_each_other_op(Visit&& visit) {
  using enum precision;
  visit(
      "dispatch", rule::exact,
      [](sizes s, generator& g) {
        auto ids = random_ids(g, s.a * s.b, 8);
        for (auto& id : ids) id = id == 7 ? no_expert : id;
        return inputs{{}, {}, {{"ids", ids}, {"active", std::vector<std::int32_t>(static_cast<std::size_t>(s.b))}}};
      },
      [](auto l) {
        const auto ids = l.ids("ids");
        const index active = l.ids("active").size();
        auto offsets = l.template blank<std::int32_t>(extents<1>{8});
        auto row_slot = l.template blank<std::int32_t>(extents<1>{ids.size()});
        auto slot_row = l.template blank<std::int32_t>(extents<2>{active == 0 ? 0 : ids.size() / active, active});
        l.backend.dispatch(as_matrix(ids, active), offsets.view(), row_slot.view(), slot_row.view());
        return outputs{l.read("offsets", exact, offsets), l.read("row_slot", exact, row_slot), l.read("slot_row", exact, slot_row)};
      });
  const auto slots = [](sizes s, generator& g) {
    inputs in{{{"x", g({s.a, s.c})}, {"y", g({s.a * 3, s.c})}}, {{"weights", g({s.a, 3})}}, {}};
    add_slots(in, g, s.a * 3);
    return in;
  };
  visit("gather", rule::exact, slots, [](auto l) {
    const auto x = l.template value<2>("x");
    const auto row_slot = l.ids("row_slot");
    auto y = l.blank_value(extents<2>{row_slot.size(), x.extent(1)});
    l.backend.gather(c(x), c(row_slot), 3, y.view());
    return outputs{l.read("y", exact, y)};
  });
  for (const auto mode : {write_mode::overwrite, write_mode::accumulate}) {
    const std::string suffix = mode == write_mode::accumulate ? "+=" : "";
    visit("gather_sum" + suffix, rule::products, slots, [=](auto l) {
      const auto y = l.template value<2>("y");
      const auto slot_row = l.ids("slot_row");
      auto out = mode == write_mode::accumulate ? l.template value<2>("x") : l.blank_value(l.template value<2>("x").shape());
      l.backend.gather_sum(c(y), c(slot_row).reshape(extents<2>{slot_row.size() / 3, 3}), out.view(), mode);
      return outputs{l.read("out", stored, out)};
    });
    visit("combine" + suffix, rule::products, slots, [=](auto l) {
      const auto y = l.template value<2>("y");
      const auto weights = l.template sum<2>("weights");
      const auto slot_row = l.ids("slot_row");
      auto out = mode == write_mode::accumulate ? l.template value<2>("x") : l.blank_value(l.template value<2>("x").shape());
      l.backend.combine(c(y), c(slot_row).reshape(extents<2>{slot_row.size() / 3, 3}), c(weights), out.view(), mode);
      return outputs{l.read("out", stored, out)};
    });
  }
  const auto gated = [](sizes s, generator& g) {
    inputs in{{{"gate_up", g({s.a * 2, 2 * s.c}, 3)}, {"dh", g({s.a * 2, s.c})}}, {{"weights", g({s.a, 2})}}, {}};
    add_slots(in, g, s.a * 2);
    return in;
  };
  visit("swiglu", rule::elementwise, gated, [](auto l) {
    const auto gate_up = l.template value<2>("gate_up");
    auto h = l.blank_value(l.template value<2>("dh").shape());
    l.backend.swiglu(c(gate_up), h.view());
    return outputs{l.read("h", stored, h)};
  });
  visit("swiglu_backward", rule::elementwise, gated, [](auto l) {
    const auto gate_up = l.template value<2>("gate_up");
    const auto dh = l.template value<2>("dh");
    auto dgate_up = l.blank_value(gate_up.shape());
    l.backend.swiglu_backward(c(gate_up), c(dh), dgate_up.view());
    return outputs{l.read("dgate_up", stored, dgate_up)};
  });
  visit("weighted_swiglu_backward", rule::reduction, gated, [](auto l) {
    const auto gate_up = l.template value<2>("gate_up");
    const auto dh = l.template value<2>("dh");
    const auto weights = l.template sum<2>("weights");
    const auto row_slot = l.ids("row_slot");
    auto dgate_up = l.blank_value(gate_up.shape());
    auto weighted_h = l.blank_value(dh.shape());
    auto dweights = l.blank_sum(weights.shape());
    l.backend.weighted_swiglu_backward(c(gate_up), c(dh), c(weights), c(row_slot), dgate_up.view(), weighted_h.view(), dweights.view());
    return outputs{l.read("dgate_up", stored, dgate_up), l.read("weighted_h", stored, weighted_h), l.read("dweights", summed, dweights)};
  });
  visit(
      "add", rule::elementwise,
      [](sizes s, generator& g) {
        return inputs{{{"x", g({s.a * s.c})}, {"y", g({s.a * s.c})}}, {}, {}};
      },
      [](auto l) {
        auto y = l.template value<1>("y");
        const auto x = l.template value<1>("x");
        l.backend.add(c(x), y.view());
        return outputs{l.read("y", stored, y)};
      });
  visit(
      "adamw", rule::elementwise,
      [](sizes s, generator& g) {
        inputs in{{{"weight", g({s.a * s.c})}},
                  {{"master", g({s.a * s.c})}, {"m", g({s.a * s.c})}, {"v", g({s.a * s.c})}, {"gradient", g({s.a * s.c})}},
                  {}};
        for (double& v : in.sum.at("v").values) v = v * v + 0.01;  // a tiny root would only test how it is divided by
        return in;
      },
      [](auto l) {
        auto weight = l.template value<1>("weight");
        auto master = l.template sum<1>("master");
        auto m = l.template sum<1>("m");
        auto v = l.template sum<1>("v");
        const auto gradient = l.template sum<1>("gradient");
        adamw_step step;
        step.learning_rate = 0.01;
        step.weight_decay = 0.1;
        step.step = 3;
        step.gradient_scale = 0.5;
        l.backend.adamw(weight.view(), master.view(), m.view(), v.view(), c(gradient), step);
        return outputs{l.read("weight", stored, weight), l.read("master", summed, master), l.read("m", summed, m), l.read("v", summed, v)};
      });
  visit(
      "sum_of_squares", rule::elementwise,
      [](sizes s, generator& g) {
        return inputs{{}, {{"gradient", g({s.a * s.b * s.c})}}, {}};
      },
      [](auto l) {
        const auto gradient = l.template sum<1>("gradient");
        return outputs{{"sum", summed, {l.backend.sum_of_squares(c(gradient))}}};
      });
  const auto table = [](sizes s, generator& g) {
    return inputs{{{"table", g({19, s.c})}, {"dy", g({s.a, s.c})}}, {{"dtable", g({19, s.c})}}, {{"ids", random_ids(g, s.a, 19)}}};
  };
  visit("embedding", rule::exact, table, [](auto l) {
    const auto ids = l.ids("ids");
    const auto rows = l.template value<2>("table");
    auto y = l.blank_value(extents<2>{ids.size(), rows.extent(1)});
    l.backend.embedding(c(ids), c(rows), y.view());
    return outputs{l.read("y", exact, y)};
  });
  visit("embedding_dw", rule::products, table, [](auto l) {
    const auto ids = l.ids("ids");
    const auto dy = l.template value<2>("dy");
    auto dtable = l.template sum<2>("dtable");
    l.backend.embedding_dw(c(ids), c(dy), dtable.view());
    return outputs{l.read("dtable", summed, dtable)};
  });
  const auto normed = [](sizes s, generator& g) {
    inputs in{{{"x", g({s.a, s.c})}, {"dy", g({s.a, s.c})}, {"dx", g({s.a, s.c})}, {"weight", g({s.c})}},
              {{"rstd", g({s.a})}, {"dweight", g({s.c})}},
              {}};
    for (double& r : in.sum.at("rstd").values) r = std::abs(r) + 0.5;
    return in;
  };
  visit("rms_norm", rule::reduction, normed, [](auto l) {
    const auto x = l.template value<2>("x");
    const auto weight = l.template value<1>("weight");
    auto y = l.blank_value(x.shape());
    auto rstd = l.blank_sum(extents<1>{x.extent(0)});
    l.backend.rms_norm(c(x), c(weight), 1e-5, y.view(), rstd.view());
    return outputs{l.read("y", stored, y), l.read("rstd", summed, rstd)};
  });
  for (const auto mode : {write_mode::overwrite, write_mode::accumulate}) {
    visit(mode == write_mode::accumulate ? "rms_norm_dx+=" : "rms_norm_dx", rule::reduction, normed, [=](auto l) {
      const auto x = l.template value<2>("x");
      const auto dy = l.template value<2>("dy");
      const auto weight = l.template value<1>("weight");
      const auto rstd = l.template sum<1>("rstd");
      auto dx = mode == write_mode::accumulate ? l.template value<2>("dx") : l.blank_value(x.shape());
      l.backend.rms_norm_dx(c(dy), c(x), c(weight), c(rstd), dx.view(), mode);
      return outputs{l.read("dx", stored, dx)};
    });
  }
  visit("rms_norm_dw", rule::reduction, normed, [](auto l) {
    const auto x = l.template value<2>("x");
    const auto dy = l.template value<2>("dy");
    const auto rstd = l.template sum<1>("rstd");
    auto dweight = l.template sum<1>("dweight");
    l.backend.rms_norm_dw(c(dy), c(x), c(rstd), dweight.view());
    return outputs{l.read("dweight", summed, dweight)};
  });
  for (const int direction : {1, -1}) {
    visit(
        direction > 0 ? "rope" : "rope_backward", rule::elementwise,
        [](sizes s, generator& g) {
          return inputs{{{"x", g({s.a, 3, 2 * s.c})}}, {}, {{"positions", random_ids(g, s.a, 500)}}};
        },
        [=](auto l) {
          auto x = l.template value<3>("x");
          const auto positions = l.ids("positions");
          l.backend.rope(x.view(), c(positions), 1e4, direction);
          return outputs{l.read("x", stored, x)};
        });
  }
  visit("attention", rule::attention, make_attention, [](auto l) {
    const auto q = l.template value<3>("q");
    const auto k = l.template value<3>("k");
    const auto v = l.template value<3>("v");
    const auto begin = l.ids("key_begin");
    const auto end = l.ids("key_end");
    auto o = l.blank_value(q.shape());
    auto lse = l.blank_sum(extents<2>{q.extent(0), q.extent(1)});
    l.backend.attention(c(q), c(k), c(v), c(begin), c(end), 0.3, o.view(), lse.view());
    output sums = l.read("lse", summed, lse);
    for (double& x : sums.values) x = std::isinf(x) ? -1000 : x;  // -inf marks a query without keys; the comparison works on numbers
    return outputs{l.read("o", stored, o), sums};
  });
  visit(
      "attention_backward", rule::attention,
      [](sizes s, generator& g) {
        inputs in = make_attention(s, g);
        in.value["d_o"] = g({s.a, 4, s.c});
        // o and lse come from the forward in double; rounded like every input, so that only the backward is compared
        reference_backend<double> reference;
        const lab l(reference, in);
        const auto q = l.template value<3>("q");
        const auto k = l.template value<3>("k");
        const auto v = l.template value<3>("v");
        const auto begin = l.ids("key_begin");
        const auto end = l.ids("key_end");
        auto o = l.blank_value(q.shape());
        auto lse = l.blank_sum(extents<2>{s.a, 4});
        reference.attention(c(q), c(k), c(v), c(begin), c(end), 0.3, o.view(), lse.view());
        in.value["o"] = {{s.a, 4, s.c}, l.read("o", stored, o).values};
        in.sum["lse"] = {{s.a, 4}, l.read("lse", summed, lse).values};
        return in;
      },
      [](auto l) {
        const auto q = l.template value<3>("q");
        const auto k = l.template value<3>("k");
        const auto v = l.template value<3>("v");
        const auto d_o = l.template value<3>("d_o");
        const auto begin = l.ids("key_begin");
        const auto end = l.ids("key_end");
        const auto o = l.template value<3>("o");
        const auto lse = l.template sum<2>("lse");
        auto dq = l.blank_value(q.shape());
        auto dk = l.blank_value(k.shape());
        auto dv = l.blank_value(k.shape());
        l.backend.attention_backward(c(q), c(k), c(v), c(o), c(lse), c(d_o), c(begin), c(end), 0.3, dq.view(), dk.view(), dv.view());
        return outputs{l.read("dq", stored, dq), l.read("dk", stored, dk), l.read("dv", stored, dv)};
      });
  visit(
      "cross_entropy", rule::reduction,
      [](sizes s, generator& g) {
        inputs in{{}, {{"logits", g({s.a, s.c + 1}, 2)}}, {{"labels", random_ids(g, s.a, s.c + 1)}}};
        for (std::size_t t = 0; t < in.ids.at("labels").size(); t += 3) in.ids.at("labels")[t] = ignored_label;
        return in;
      },
      [](auto l) {
        auto logits = l.template sum<2>("logits");
        const auto labels = l.ids("labels");
        const double loss = l.backend.cross_entropy(logits.view(), c(labels), 0.25);
        return outputs{{"loss", summed, {loss}}, l.read("logits", summed, logits)};
      });
}

template <class Visit>
void for_each_op(Visit&& visit) {
  for_each_matrix_op(visit);
  for_each_other_op(visit);
}

/// Each odd size in each place, beside two others.
inline std::vector<sizes> odd_shapes() {
  constexpr index odd_sizes[] = {0, 1, 2, 3, 7, 17, 31, 33, 63, 65, 127, 129};
  constexpr std::size_t count = std::size(odd_sizes);
  std::vector<sizes> result;
  for (std::size_t i = 0; i < count; ++i) result.push_back({odd_sizes[i], odd_sizes[(5 * i + 3) % count], odd_sizes[(7 * i + 4) % count]});
  return result;
}

/// Magnitudes of the terms that an op adds up which is linear in each of its inputs: the same of absolute inputs, by the reference.
template <class Run>
outputs sizes_of_terms(const inputs& in, const Run& run) {
  inputs absolute = in;
  for (auto* group : {&absolute.value, &absolute.sum}) {
    for (auto& [name, n] : *group) {
      for (double& x : n.values) x = std::abs(x);
    }
  }
  reference_backend<double> reference;
  return run(lab(reference, absolute));
}

}  // namespace esft::test
