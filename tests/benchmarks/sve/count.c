/* A QEMU plugin that counts executed instructions by the function they stand in. Output: one "name count" line each.
   The few declarations of qemu-plugin.h that it needs are repeated here, because distributions do not package that header. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
int qemu_plugin_version = PLUGIN_VERSION;

static struct { char name[64]; uint64_t count; } functions[4096];
static size_t known;
static struct block { unsigned function, instructions; struct block *next; } blocks[1 << 18];
static size_t used;

static unsigned function_of(const struct qemu_plugin_insn *insn) {
    const char *name = qemu_plugin_insn_symbol(insn);
    if (!name) name = "?";
    for (size_t i = 0; i < known; i++)
        if (!strncmp(functions[i].name, name, 63)) return (unsigned)i;
    if (known == 4096) return 0;
    strncpy(functions[known].name, name, 63);
    return (unsigned)known++;
}

static void executed(unsigned cpu, void *data) {
    for (const struct block *part = data; part; part = part->next) functions[part->function].count += part->instructions;
}

/* A translated block is straight-line code: each time it runs, all of its instructions do. It may cross into another function. */
static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    struct block *first = NULL, *last = NULL;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb) && used < sizeof blocks / sizeof *blocks; i++) {
        unsigned function = function_of(qemu_plugin_tb_get_insn(tb, i));
        if (!last || last->function != function) {
            struct block *fresh = &blocks[used++];
            fresh->function = function;
            if (last) last->next = fresh; else first = fresh;
            last = fresh;
        }
        last->instructions++;
    }
    if (first) qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, NO_REGISTERS, first);
}

static void finished(plugin_id id, void *data) {
    for (size_t i = 0; i < known; i++) fprintf(stderr, "%s %" PRIu64 "\n", functions[i].name, functions[i].count);
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
