// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of `esft/io/`: files of other tools and our own, as plain records.

#include <esft/io/adapter.hpp>               // IWYU pragma: export
#include <esft/io/bytes.hpp>                 // IWYU pragma: export
#include <esft/io/compose_adapters.hpp>      // IWYU pragma: export
#include <esft/io/config_collector.hpp>      // IWYU pragma: export
#include <esft/io/contained_path.hpp>        // IWYU pragma: export
#include <esft/io/dataset_file.hpp>          // IWYU pragma: export
#include <esft/io/directory.hpp>             // IWYU pragma: export
#include <esft/io/expert_config.hpp>         // IWYU pragma: export
#include <esft/io/expert_slices.hpp>         // IWYU pragma: export
#include <esft/io/factor_matrix.hpp>         // IWYU pragma: export
#include <esft/io/file.hpp>                  // IWYU pragma: export
#include <esft/io/fused_sources.hpp>         // IWYU pragma: export
#include <esft/io/group_model.hpp>           // IWYU pragma: export
#include <esft/io/hf_config.hpp>             // IWYU pragma: export
#include <esft/io/hf_config_json.hpp>        // IWYU pragma: export
#include <esft/io/input_error.hpp>           // IWYU pragma: export
#include <esft/io/json.hpp>                  // IWYU pragma: export
#include <esft/io/json_reader.hpp>           // IWYU pragma: export
#include <esft/io/json_value.hpp>            // IWYU pragma: export
#include <esft/io/jsonl.hpp>                 // IWYU pragma: export
#include <esft/io/line_reader.hpp>           // IWYU pragma: export
#include <esft/io/lock_error.hpp>            // IWYU pragma: export
#include <esft/io/low_rank_merge.hpp>        // IWYU pragma: export
#include <esft/io/merge_adapter.hpp>         // IWYU pragma: export
#include <esft/io/model_directory.hpp>       // IWYU pragma: export
#include <esft/io/npy.hpp>                   // IWYU pragma: export
#include <esft/io/peft_config.hpp>           // IWYU pragma: export
#include <esft/io/peft_export.hpp>           // IWYU pragma: export
#include <esft/io/peft_import.hpp>           // IWYU pragma: export
#include <esft/io/peft_names.hpp>            // IWYU pragma: export
#include <esft/io/receipt.hpp>               // IWYU pragma: export
#include <esft/io/routing_log.hpp>           // IWYU pragma: export
#include <esft/io/run_lock.hpp>              // IWYU pragma: export
#include <esft/io/safetensors.hpp>           // IWYU pragma: export
#include <esft/io/score_summary.hpp>         // IWYU pragma: export
#include <esft/io/sha256.hpp>                // IWYU pragma: export
#include <esft/io/side_files.hpp>            // IWYU pragma: export
#include <esft/io/storage_error.hpp>         // IWYU pragma: export
#include <esft/io/tensor_diff.hpp>           // IWYU pragma: export
#include <esft/io/tensor_files.hpp>          // IWYU pragma: export
#include <esft/io/tensor_record.hpp>         // IWYU pragma: export
#include <esft/io/tokenizer_components.hpp>  // IWYU pragma: export
#include <esft/io/tokenizer_config.hpp>      // IWYU pragma: export
#include <esft/io/tokenizer_json.hpp>        // IWYU pragma: export
#include <esft/io/tokenizer_vocabulary.hpp>  // IWYU pragma: export
#include <esft/io/training_state.hpp>        // IWYU pragma: export
#include <esft/io/unmerge.hpp>               // IWYU pragma: export
