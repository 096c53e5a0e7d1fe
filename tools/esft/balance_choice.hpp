// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The flags of the routers' auxiliary losses, and of their moving biases.

#include "format.hpp"
#include "number_checks.hpp"

#include <esft/core/error.hpp>
#include <esft/model/config.hpp>
#include <esft/train/checkpoint.hpp>
#include <esft/train/trainer.hpp>

#include <CLI/App.hpp>

#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {

/// What was asked for beside the coefficients, which go straight to the trainer's options.
struct balance_request {
  std::vector<index> devices;  ///< one number: so many equal ones; several: the experts of each
  index sent_to = 0;           ///< 0: all devices
};

inline void add_balance_options(CLI::App& command, balance_request& request, trainer_options& trainer) {
  const auto coefficient = [&](const char* flag, double& value, const char* what) {
    command.add_option(flag, value, std::string("coefficient of ") + what)->check(non_negative_number)->capture_default_str();
  };
  balance_terms& terms = trainer.balance;
  coefficient("--balance", terms.expert, "the load-balance loss of each layer's experts: E / K sum f P (DeepSeekMoE)");
  coefficient("--balance-switch", terms.switch_form, "the same as Switch writes it: E sum f P, K times as much");
  coefficient("--balance-across-layers", terms.across_layers, "the same over the tokens of all layers together, as in transformers");
  coefficient("--balance-sequence", terms.sequence, "the load-balance loss of each sample by itself (DeepSeek-V3)");
  coefficient("--balance-device", terms.device, "the load-balance loss of devices (DeepSeekMoE); needs --balance-devices");
  coefficient("--balance-communication", terms.communication, "the loss on what devices receive (DeepSeek-V2); needs --balance-devices");
  command.add_option("--balance-devices", request.devices, "so many devices of equal size, or the experts of each: 24,24,16")
      ->delimiter(',')
      ->check(positive_number);
  command.add_option("--balance-sent-to", request.sent_to, "devices that a token may be sent to, for --balance-communication; else all")
      ->check(positive_number);
  coefficient("--z-loss", trainer.z_loss, "the loss on the size of the routers' logits (ST-MoE)");
  command.add_option("--bias-step", trainer.bias_step,
                     "after each step, move the bias of each expert's choice by so much towards the mean load (DeepSeek-V3), below 0 away "
                     "from it; 0: biases are frozen")
      ->check(number_between(-1.0, 1.0))
      ->capture_default_str();
}

/// Puts the devices into the trainer's terms. @throws usage_error where they and the losses or the model's experts do not fit
inline void settle_balance(const balance_request& request, const decoder_config& model, balance_terms& terms) {
  const bool asked = terms.device > 0 || terms.communication > 0;
  if (asked && request.devices.empty()) {
    throw usage_error("--balance-device and --balance-communication need devices: add --balance-devices, such as 4 or 24,24,16");
  }
  if (!asked && !request.devices.empty()) {
    throw usage_error("--balance-devices says nothing without --balance-device or --balance-communication");
  }
  if (request.sent_to > 0 && terms.communication == 0) {
    throw usage_error("--balance-sent-to says nothing without --balance-communication");
  }
  if (!asked) return;
  const bool equal = request.devices.size() == 1;
  const index held = equal ? model.experts / request.devices.front() * request.devices.front()
                           : std::accumulate(request.devices.begin(), request.devices.end(), index{0});
  if (held != model.experts || held == 0) {
    throw usage_error("--balance-devices does not share out the " + std::to_string(model.experts) +
                      " experts of a layer: give a number that divides it, or the experts of each device");
  }
  const index devices = equal ? request.devices.front() : static_cast<index>(request.devices.size());
  if (request.sent_to > devices) throw usage_error("--balance-sent-to is more than there are devices");
  if (equal) {
    terms.groups = devices;
  } else {
    terms.group_sizes = request.devices;
  }
  terms.sent_to = request.sent_to > 0 ? request.sent_to : devices;
}

/// Adds the biases that are to move to what a run changes and saves. @throws usage_error where the model's routers have none
inline void plan_moving_biases(double step, const decoder_config& model, trainable_set& trainable) {
  if (step == 0) return;
  if (model.router != router_kind::sigmoid) {
    throw usage_error("--bias-step moves the biases of sigmoid routers (DeepSeek-V3), and this model has others: leave it out");
  }
  for (std::size_t l = 0; l < model.moe_layer.size(); ++l) {
    if (model.moe_layer[l]) trainable.whole.insert({parameter_role::choice_bias, layer_index{static_cast<std::int32_t>(l)}});
  }
}

/// What two runs must share for one to continue the other; terms that are off leave no trace, save the first, which runs always named.
inline void add_balance(run_fingerprint& fingerprint, const trainer_options& trainer) {
  const balance_terms& terms = trainer.balance;
  fingerprint["balance"] = exact_text(terms.expert);
  for (const auto& [name, value] : {std::pair{"balance-switch", terms.switch_form},
                                    {"balance-across-layers", terms.across_layers},
                                    {"balance-sequence", terms.sequence},
                                    {"balance-device", terms.device},
                                    {"balance-communication", terms.communication},
                                    {"z-loss", trainer.z_loss}}) {
    if (value > 0) fingerprint[name] = exact_text(value);
  }
  if (trainer.bias_step != 0) fingerprint["bias-step"] = exact_text(trainer.bias_step);
  if (terms.device == 0 && terms.communication == 0) return;
  std::string& devices = fingerprint["balance-devices"] = std::to_string(terms.groups);
  for (std::size_t d = 0; d < terms.group_sizes.size(); ++d) {
    devices = (d == 0 ? std::string() : devices + ",") + std::to_string(terms.group_sizes[d]);
  }
  if (terms.communication > 0) fingerprint["balance-sent-to"] = std::to_string(terms.sent_to);
}

}  // namespace esft::tool
