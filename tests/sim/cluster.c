// cluster.c: runs of the whole control plane with seeded faults (sim.h). `test_cluster SEED` plays
// the faults of one seed again.
#include "tests/sim/sim.h"
#include "tests/support.h"
#include "tests/toy_folder.h"

#include "common/base/clock.h"
#include "common/base/json.h"

#include <sodium.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 5, LIMIT_MS = 3600 * 1000 };

static char folder[] = "/tmp/kelvin-sim-XXXXXX";
static uint64_t base_seed;

static struct run_config run_of(const char *name, int64_t staleness)
{
    struct run_config config;
    char model[64];
    char run_dir[64];
    char *words[] = {model,
                     run_dir,
                     (char[]){"steps=5"},
                     (char[]){"actors=3"},
                     (char[]){"verifiers=2"},
                     (char[]){"azr.batch=4"},
                     (char[]){"azr.samples=3"},
                     (char[]){"azr.inputs=4"},
                     (char[]){"azr.seed_factor=1"},
                     (char[]){"azr.references=2"},
                     (char[]){"rollout.prompt_tokens_max=64"},
                     (char[]){"rollout.response_tokens_max=64"},
                     (char[]){"learner.threads=1"},
                     (char[]){"learner.lease_s=20"},
                     (char[]){"checkpoint.every=1"},
                     (char[]){"endpoint=inproc://control"},
                     (char[]){"weights_endpoint=inproc://weights"}};
    (void)snprintf(model, sizeof(model), "model=%s/model", folder);
    (void)snprintf(run_dir, sizeof(run_dir), "run_dir=%s/%s", folder, name);
    struct error err = {0};
    if (run_config_read(&config, NULL, words, sizeof(words) / sizeof(*words), &err) < 0) {
        fail_msg("%s", err.text);
    }
    config.azr.staleness = staleness;
    return config;
}

static void hash_text(crypto_generichash_state *hash, const unsigned char *text)
{
    const char *bytes = text == NULL ? "" : (const char *)text;
    (void)crypto_generichash_update(hash, (const unsigned char *)bytes, strlen(bytes) + 1);
}

// Every column of every row, but for the times of verdicts.
static void hash_rows(crypto_generichash_state *hash, const char *run_dir, const char *sql)
{
    char path[CONFIG_STRING_MAX + 64];
    (void)snprintf(path, sizeof(path), "%s/tasks.db", run_dir);
    sqlite3 *db = NULL;
    sqlite3_stmt *rows = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &rows, NULL), SQLITE_OK);
    while (sqlite3_step(rows) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(rows); i++) {
            hash_text(hash, sqlite3_column_text(rows, i));
        }
    }
    (void)sqlite3_finalize(rows);
    (void)sqlite3_close(db);
}

static void hash_file(crypto_generichash_state *hash, const char *run_dir, const char *name)
{
    char path[CONFIG_STRING_MAX + 64];
    (void)snprintf(path, sizeof(path), "%s/checkpoints/step-%d/%s", run_dir, STEPS, name);
    struct file_map map = {0};
    assert_int_equal(file_map(&map, path, NULL), 0);
    (void)crypto_generichash_update(hash, map.data, map.size);
    file_unmap(&map);
}

// What a run has come to: its tasks, rollouts and verdicts, its weights and moments.
static void outcome_of(unsigned char out[32], const struct run_config *config)
{
    crypto_generichash_state hash;
    (void)crypto_generichash_init(&hash, NULL, 0, 32);
    hash_rows(&hash, config->run_dir, "SELECT * FROM tasks ORDER BY id");
    hash_rows(&hash, config->run_dir,
              "SELECT id,step,kind,role,slot,sample,task,seed,trained,reward,advantage,text,"
              "hex(tokens),hex(logprobs),versions FROM rollouts ORDER BY id");
    hash_rows(&hash, config->run_dir,
              "SELECT rollout,outcome,formatted,score FROM verdicts ORDER BY rollout");
    hash_file(&hash, config->run_dir, "trainer.bin");
    hash_file(&hash, config->run_dir, "model.safetensors");
    hash_file(&hash, config->run_dir, "state.json");
    (void)crypto_generichash_final(&hash, out, 32);
}

static struct sim_result play(const struct run_config *config, const struct sim_faults *faults)
{
    assert_int_equal(file_remove_tree(config->run_dir, NULL), 0);
    struct sim_result result = sim_play(config, faults, LIMIT_MS);
    (void)fprintf(
        stderr, "seed=%llu virtual_s=%llu answers=%d lost=%d deaths=%d goodbyes=%d learners=%d\n",
        (unsigned long long)faults->seed, (unsigned long long)result.virtual_ms / 1000,
        result.answers, result.lost, result.worker_deaths, result.goodbyes, result.learner_deaths);
    if (!result.ended || result.exit_code != 0) {
        fail_msg("seed %llu: %s, exit code %d", (unsigned long long)faults->seed,
                 result.ended ? "the run failed" : "the run hangs", result.exit_code);
    }
    return result;
}

static void assert_same(const struct run_config *config, const unsigned char *wanted,
                        const struct sim_faults *faults)
{
    unsigned char outcome[32];
    outcome_of(outcome, config);
    if (memcmp(outcome, wanted, sizeof(outcome)) != 0) {
        fail_msg("seed %llu: another outcome", (unsigned long long)faults->seed);
    }
}

// With staleness 0 the outcome of a run does not depend on how late answers are, on which of them
// are lost or failed, on workers that die or leave, nor on a learner that dies and is resumed.
static void test_faults_change_nothing(void **state)
{
    (void)state;
    unsigned char wanted[32];
    struct run_config config = run_of("calm", 0);
    struct sim_faults calm = {.seed = base_seed};
    (void)play(&config, &calm);
    outcome_of(wanted, &config);

    config = run_of("workers", 0);
    struct sim_faults workers = {.seed = base_seed + 1,
                                 .lost = 0.01,
                                 .failed = 0.01,
                                 .late = 0.05,
                                 .late_ms = 25000,
                                 .deaths_per_s = 0.01};
    (void)play(&config, &workers);
    assert_same(&config, wanted, &workers);

    config = run_of("learner", 0);
    struct sim_faults learner = {.seed = base_seed + 2,
                                 .late = 0.02,
                                 .late_ms = 5000,
                                 .deaths_per_s = 0.005,
                                 .learner_deaths_per_s = 0.03};
    (void)play(&config, &learner);
    assert_same(&config, wanted, &learner);
}

// With old data admitted a run also comes to its end, with a line for every step.
static void test_staleness_ends(void **state)
{
    (void)state;
    struct run_config config = run_of("stale", 2);
    struct sim_faults faults = {.seed = base_seed + 3,
                                .lost = 0.01,
                                .failed = 0.01,
                                .late = 0.1,
                                .late_ms = 25000,
                                .deaths_per_s = 0.01,
                                .learner_deaths_per_s = 0.01};
    (void)play(&config, &faults);
    char path[CONFIG_STRING_MAX + 64];
    (void)snprintf(path, sizeof(path), "%s/metrics.jsonl", config.run_dir);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(file_read(&text, &size, path, 1 << 24, NULL), 0);
    int64_t step = 0;
    for (char *rest = text, *line = NULL; (line = strsep(&rest, "\n")) != NULL && *line != '\0';) {
        CLEANUP(json_decrefp) json_t *parsed = NULL;
        assert_int_equal(json_parse(&parsed, line, strlen(line), "metrics", NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(parsed, "step")), ++step);
    }
    assert_int_equal(step, STEPS);
    free(text);
}

int main(int argc, char **argv)
{
    char model[64];
    CHECK(mkdtemp(folder) != NULL);
    base_seed = argc > 1 ? strtoull(argv[1], NULL, 10) : clock_ns();
    (void)snprintf(model, sizeof(model), "%s/model", folder);
    toy_folder(model, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_change_nothing),
        cmocka_unit_test(test_staleness_ends),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)file_remove_tree(folder, NULL);
    return failed;
}
