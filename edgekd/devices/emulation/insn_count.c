/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-or-later
 *
 * A plugin for QEMU's user mode that counts the guest's instructions between marks.
 *
 *     qemu-aarch64 -plugin file=insn_count.so,out=FILE ...
 *
 * A mark is the guest's system call lseek(fd, MAGIC, SEEK_SET), which cannot fail and has no lasting
 * effect. At each mark, the instructions of all threads so far are written to FILE as a line.
 *
 * Debian ships no header for plugins. The declarations follow the documentation, "QEMU TCG
 * Plugins", https://www.qemu.org/docs/master/devel/tcg-plugins.html; API is 1 up to QEMU 8.2,
 * with one counter for all cores, and 2 from 9.0, with one per virtual core.
 */

#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define MAGIC UINT64_C(0x45444b44)
#define LSEEK_ON_AARCH64 62
#define ADD_U64 0

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(
    plugin_id id, void (*callback)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id id,
    void (*callback)(plugin_id, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                     uint64_t, uint64_t, uint64_t, uint64_t));

static FILE *out;

#if API == 1

int qemu_plugin_version = 1;

void qemu_plugin_register_vcpu_tb_exec_inline(
    struct qemu_plugin_tb *block, int operation, void *counter, uint64_t value);

static uint64_t count;

static void prepare(void) {}

static uint64_t total(void) { return count; }

static void count_block(struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(
        block, ADD_U64, &count, qemu_plugin_tb_n_insns(block));
}

#else

int qemu_plugin_version = 2;

struct qemu_plugin_scoreboard;
typedef struct {
    struct qemu_plugin_scoreboard *score;
    size_t offset;
} plugin_u64;

struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
uint64_t qemu_plugin_u64_sum(plugin_u64 entry);
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
    struct qemu_plugin_tb *block, int operation, plugin_u64 entry, uint64_t value);

static plugin_u64 count;

static void prepare(void) { count.score = qemu_plugin_scoreboard_new(sizeof(uint64_t)); }

static uint64_t total(void) { return qemu_plugin_u64_sum(count); }

static void count_block(struct qemu_plugin_tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block, ADD_U64, count, qemu_plugin_tb_n_insns(block));
}

#endif

static void on_translation(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    count_block(block);
}

static void on_call(plugin_id id, unsigned int core, int64_t number, uint64_t a1, uint64_t a2,
                    uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)core, (void)a1, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == LSEEK_ON_AARCH64 && a2 == MAGIC) {
        fprintf(out, "%" PRIu64 "\n", total());
        fflush(out);
    }
}

/* Not 0 ends QEMU. */
int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0)
        return 1;
    out = fopen(argv[0] + 4, "w");
    if (out == NULL)
        return 1;
    prepare();
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
