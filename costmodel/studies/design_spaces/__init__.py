"""Three design spaces of systolic accelerators with an exact oracle: what a learned or gradient search is judged against.

A space is a finite list of configurations, a way to draw workloads, and a cost in whole cycles. `oracle` tries every
configuration on every workload, in integers: the optimum, not an estimate of it.

    ArraySpace      459 = 3 dataflows x 153 shapes       cycles of one product on an array of 2^a rows and 2^b columns, a, b >=
                                                         `lower`, a + b <= `most`; only arrays within the workload's budget of
                                                         multiply-accumulators count
    BufferSpace    1000 = 10 x 10 x 10 sizes             latency of one product on `costmodel.Systolic` with input, filter and
                                                         output buffers of 100, 200, ... 1000 KiB that together stay within the
                                                         workload's limit; array, dataflow and bandwidth come with the workload
    ScheduleSpace  1944 = 4! assignments x 3^4 dataflows the makespan of four products, each on an array of its own

The latency of `BufferSpace` is max(cycles, ceil(bytes / bandwidth)) of the fastest of Systolic's three schedules: 8-bit operands,
32-bit sums, half of each buffer working while the other half is filled, bandwidth in bytes per cycle.

Order of ties: the lowest index is the best configuration. ArraySpace: dataflow os, ws, is, then rows, then columns, ascending.
BufferSpace: total size first, then input, then filter buffer, so that of equally fast memories the smallest wins.
ScheduleSpace: assignments in lexicographic order (array of workload 0 first), then dataflows likewise.

Workloads are rows of int32, one column for each of `fields`. Sizes are drawn evenly in the logarithm from 1 to `largest`, or
taken from real layers (`layer_products`), and may go up to 2^20: every count then stays exact in 64 bits.

Source: Samajdar et al., AIRCHITECT (arXiv 2108.08295), whose text gives the numbers of configurations. That they are made up as
above is our reading: 459 shapes follow from `lower`, `most` = 0, 16 as from 1, 18 and 2, 20. The four arrays are assumed.
"""
