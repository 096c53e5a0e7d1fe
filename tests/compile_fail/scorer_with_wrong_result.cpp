// SPDX-License-Identifier: Apache-2.0
// expect: (required for the satisfaction of|does not satisfy) .(esft::)?relevance_scorer
// A scorer gives a score_table: something that merely looks like one does not do.
#include <esft/relevance/scorer.hpp>

#include <vector>

struct my_scorer {
  static constexpr std::string_view name = "mine";
  void observe(const esft::routing_record&) {}
  void merge(const my_scorer&) {}
#ifdef ESFT_MUST_FAIL
  std::vector<double> scores() const { return {}; }
#else
  esft::score_table scores() const { return {}; }
#endif
};

template <esft::relevance_scorer Scorer>
void use(Scorer) {}

void try_it() { use(my_scorer{}); }
