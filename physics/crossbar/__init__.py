"""Analog matrix-vector products: weights become cells of a crossbar, inputs row drives, column currents digital results.

    mapping  = load_mapping("BNN_I")                      list_mappings(); integer ones: weight_bits, input_bits, slices
    cells    = CrossbarCells.from_currents(hrs=5e-6, lrs=30e-6, read_voltage=0.2)      with noise, faults, number of levels
    crossbar = program_crossbar(weights, mapping, cells, key, rows=256, columns=512)            weights (inputs, outputs)
    crossbar = crossbar.disturbed(ReadDisturb(), reads, read_time)                     and .drifted(factor), in any order
    adc      = Adc.full_range(mapping, bits=8)            or Adc.ideal(), Adc.calibrated(crossbar, inputs, bits=4)
    results  = crossbar.mvm(inputs, adc, key)             inputs (..., inputs) integers -> (..., outputs) floats

All effects act on one conductance matrix, in the order: programming noise, stuck-at faults, drift and disturb, read noise,
wire resistance, converter. Weights larger than one array are spread over several (`tiled=True`), whose digital partial sums
are added. `program_crossbar(..., wires=Wires(resistance=1.0))` adds IR drop. Without a key: neither noise nor faults.
A `Crossbar` is a pytree: batch over devices, seeds and parameters with `jax.vmap`.
"""
