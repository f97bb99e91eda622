# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What imperfect cells do to a network's answers
#
# A crossbar multiplies by Ohm's and Kirchhoff's laws, with cells that were written with some error, are stuck, forget, or sit
# at the end of a long thin wire. Here small networks are trained on real images, programmed into such crossbars and asked
# again. Then a closed form is fitted to the answers, and judged by conditions that it has not seen.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import costmodel
import physics
from costmodel import DeviceConditions, WeightMemory, vary_condition

# %% [markdown]
# ## Data and networks
# Handwritten digits come with scikit-learn. What a network's weights and activations may be follows from the mapping that
# puts them into cells: -1 and 1, or -1, 0 and 1, or small integers.

# %%
digits = costmodel.load_dataset("digits")
print(digits.source)
deployed = {}
for name in ("BNN_VI", "TNN_I", "TNN_III", "I_UINT_W_DIFF"):
    mapping = physics.load_mapping(name, weight_bits=4, input_bits=4, slices=(4,))
    network = costmodel.train_network(digits, costmodel.mlp(), costmodel.precision_of(mapping))
    deployed[name] = costmodel.deploy_network(network, WeightMemory(mapping=mapping), digits)
    model = costmodel.AccuracyModel.of(deployed[name])
    print(
        f"{name:14} {network.precision.name:8} {mapping.rows_per_weight * mapping.columns_per_weight} cells per weight, "
        f"{mapping.passes} passes, undisturbed accuracy {model.ideal:.3f}"
    )

# %% [markdown]
# ## Converter
# A converter of full range must cover the case that every cell conducts, which never happens: most of its codes are wasted.
# One calibrated to the currents that a layer really gives needs fewer bits.

# %%
bits = np.arange(2.0, 9.0)
for name in ("BNN_VI", "TNN_I", "TNN_III"):
    measured = costmodel.measure_accuracy(deployed[name], vary_condition(DeviceConditions(), "adc_bits", bits), seeds=1)
    plt.plot(bits, measured[:, 0], "o-", label=f"{name}, full range")
ternary = deployed["TNN_I"].network
fitting = costmodel.deploy_network(ternary, WeightMemory(converter="calibrated"), digits)
measured = costmodel.measure_accuracy(fitting, vary_condition(DeviceConditions(), "adc_bits", bits), seeds=1)
plt.plot(bits, measured[:, 0], "s--", label="TNN_I, calibrated")
plt.xlabel("converter resolution (bit)")
plt.ylabel("accuracy")
plt.title("Bits are for the currents that occur (digits, 128 rows)")
plt.legend()
plt.show()

# %% [markdown]
# ## One disturbance at a time, and a closed form
# The variances that the disturbances add to a product make a signal-to-noise ratio; accuracy is a logistic function of its
# logarithm. Points are means of eight devices, bars their standard deviation, lines the fitted closed form.

# %%
survey = costmodel.survey_accuracy(deployed["TNN_I"])
fitted = survey.models["weighted"]
names = {
    "program_noise": "programming noise (of the swing)",
    "stuck_hrs": "cells stuck at HRS",
    "stuck_lrs": "cells stuck at LRS",
    "wire_resistance": "wire resistance (ohm per cell)",
    "adc_bits": "converter resolution (bit)",
}
figure, axes = plt.subplots(1, 5, figsize=(16, 3.2), sharey=True)
points = len(survey.fitted_accuracy) // len(names)
for index, (axis, (name, label)) in enumerate(zip(axes, names.items(), strict=True)):
    part = slice(index * points, (index + 1) * points)
    strength, accuracies = np.asarray(getattr(survey.fitted_on, name))[part], survey.fitted_accuracy[part]
    axis.errorbar(strength, accuracies.mean(1), accuracies.std(1), fmt="o", capsize=2, label="measured")
    fine = np.linspace(strength[0], strength[-1], 60)
    axis.plot(fine, costmodel.expected_accuracy(fitted, vary_condition(DeviceConditions(), name, fine)), label="closed form")
    axis.set_xlabel(label)
axes[0].set_ylabel("accuracy")
axes[0].legend()
figure.suptitle("Ternary network on digits, TNN_I, 128 rows")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Held back
# The fit has seen one disturbance at a time. Here are forty random mixtures of all of them. Three forms compete: the plain sum of
# variances (two fitted numbers), a weighted sum (five), and a product of fault density, deviation and temperature (one, and
# fitted to these very points, because single disturbances do not move it at all).

# %%
truth = survey.held_back_accuracy.mean(1)
for name, form in (("weighted", "variance"), ("plain", "variance"), ("product", "product")):
    predicted = costmodel.expected_accuracy(survey.models[name], survey.held_back, form)
    rms, largest = survey.errors[name]["held back"]
    plt.plot(truth, predicted, "o", label=f"{name}: {100 * rms:.1f} points rms, {100 * largest:.1f} at most")
plt.plot([0, 1], [0, 1], color="gray", linewidth=1)
plt.xlabel("measured accuracy, mean of eight devices")
plt.ylabel("predicted accuracy")
plt.title(f"Mixtures not seen by the fit (standard error of the points {100 * survey.noise:.1f})")
plt.legend(loc="lower right", fontsize="small")
plt.show()
for name, judged in survey.errors.items():
    print(f"{name:9}", {where: f"{100 * rms:.1f} rms, {100 * top:.1f} max" for where, (rms, top) in judged.items()})

# %% [markdown]
# ## Retention and temperature
# A cell that has forgotten stands at HRS. Accuracy after a year falls within some twenty kelvin: Arrhenius' law is steep.
# Two cells with measured bake times; points are measured, lines come from the form fitted above, without another fit.

# %%
kelvin = np.linspace(320.0, 440.0, 13)
for color, name in zip(("C0", "C1"), ("hfox_reram", "cbram"), strict=True):
    memory = WeightMemory(retention=physics.load_device(name).retention)
    stored = vary_condition(DeviceConditions(storage_time=physics.YEAR), "temperature", kelvin)
    place = costmodel.deploy_network(ternary, memory, digits)
    plt.plot(kelvin - 273.15, costmodel.measure_accuracy(place, stored).mean(1), "o", color=color, label=name)
    here = physics.replace(fitted, {f"memory.retention.{p}": getattr(memory.retention, p) for p in ("log_tau_ref", "e_a")})
    plt.plot(kelvin - 273.15, costmodel.expected_accuracy(here, stored), color=color)
plt.xlabel("temperature (C)")
plt.ylabel("accuracy after one year")
plt.legend()
plt.show()

# %% [markdown]
# The whole chain has a gradient: how many points of accuracy does one more kelvin cost, half way down?

# %%
stored = DeviceConditions(temperature=408.0, storage_time=physics.YEAR)
slope = jax.grad(lambda c: costmodel.expected_accuracy(fitted, c))(stored)
print(f"accuracy {costmodel.expected_accuracy(fitted, stored):.3f}, {100 * slope.temperature:.2f} points per kelvin")

# %% [markdown]
# ## Garments
# The same on Fashion-MNIST, halved to 14 x 14 pixels, if the Debian package `dataset-fashion-mnist` is there. A harder task
# starts lower; weights of four bits in single cells start higher and fall sooner.

# %%
if "fashion-mnist" in costmodel.list_datasets():
    garments = costmodel.load_dataset("fashion-mnist").resized(14, 14)
    noise = vary_condition(DeviceConditions(), "program_noise", np.linspace(0, 0.3, 7))
    for name in ("TNN_I", "I_UINT_W_DIFF"):
        memory = deployed[name].memory
        network = costmodel.train_network(
            garments, costmodel.mlp(), costmodel.precision_of(memory.mapping), steps=1000, batch=128
        )
        measured = costmodel.measure_accuracy(costmodel.deploy_network(network, memory, garments), noise, seeds=4)
        plt.errorbar(np.asarray(noise.program_noise), measured.mean(1), measured.std(1), capsize=2, label=name)
    plt.xlabel("programming noise (of the swing)")
    plt.ylabel("accuracy on Fashion-MNIST")
    plt.legend()
    plt.show()
else:
    print("fashion-mnist is not installed: left out")

# %% [markdown]
# ## What this is not
# Fitted numbers hold for one network in one memory. The mixtures are drawn from the same ranges as the fit: outside them nothing
# is known. Wires and coarse converters err systematically, which a variance only imitates: they make the largest errors.
