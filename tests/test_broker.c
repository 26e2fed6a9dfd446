#include "tests/support.h"

#include "learner/broker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// What the broker did, written down.
struct scene {
    struct broker *broker;
    struct {
        char peer[PEER_TEXT_MAX];
        uint64_t lease;
    } sent[64];
    int sent_count;
    int given_up;
    int released;
    char left[PEER_TEXT_MAX];
    int send_code;
};

static int on_send(void *context, const struct peer *peer, const struct lease *lease)
{
    struct scene *scene = context;
    if (scene->send_code == 0) {
        strcpy(scene->sent[scene->sent_count].peer, peer->name);
        scene->sent[scene->sent_count++].lease = lease->id;
    }
    return scene->send_code;
}

static void on_give_up(void *context, struct lease *lease)
{
    (void)lease;
    ((struct scene *)context)->given_up++;
}

static void on_release(void *context, struct lease *lease)
{
    (void)lease;
    ((struct scene *)context)->released++;
}

static void on_left(void *context, const struct peer *peer, const char *why)
{
    (void)why;
    strcpy(((struct scene *)context)->left, peer->name);
}

static int setup(void **state)
{
    struct scene *scene = calloc(1, sizeof(*scene));
    assert_non_null(scene);
    struct broker_events events = {.context = scene,
                                   .send = on_send,
                                   .give_up = on_give_up,
                                   .release = on_release,
                                   .left = on_left};
    assert_int_equal(broker_create(&scene->broker, 4, 60000, &events, NULL), 0);
    *state = scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    broker_destroy(scene->broker);
    free(scene);
    return 0;
}

static struct peer *join(struct scene *scene, const char *name, int32_t capacity, uint64_t now)
{
    struct peer peer = {.capacity = capacity};
    strcpy(peer.name, name);
    return broker_join(scene->broker, &peer, now);
}

// Work goes to the peer with the smaller load, and waits when no peer has credit.
static void test_credit(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 2, 0);
    join(scene, "b", 1, 0);
    for (int i = 0; i < 4; i++) {
        assert_non_null(broker_submit(scene->broker, 1));
    }
    assert_null(broker_submit(scene->broker, 1)); // the bound
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, 3);
    assert_int_equal(broker_counts(scene->broker).waiting, 1);
    assert_int_equal(broker_counts(scene->broker).leased, 3);

    struct lease *lease = broker_result(scene->broker, scene->sent[0].lease, 0);
    assert_non_null(lease);
    assert_int_equal(lease->missing, 0);
    broker_end(scene->broker, lease);
    broker_match(scene->broker, 1);
    assert_int_equal(scene->sent_count, 4);
    assert_string_equal(scene->sent[3].peer, scene->sent[0].peer);
}

// A result counts once; one for an ended lease, a repeated sample and a sample that was never asked
// for are late.
static void test_once(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 8, 0);
    uint64_t id = broker_submit(scene->broker, 2)->id;
    broker_match(scene->broker, 0);
    assert_non_null(broker_result(scene->broker, id, 1));
    assert_null(broker_result(scene->broker, id, 1));
    assert_null(broker_result(scene->broker, id, 2));
    struct lease *lease = broker_result(scene->broker, id, 0);
    assert_int_equal(lease->missing, 0);
    broker_end(scene->broker, lease);
    assert_null(broker_result(scene->broker, id, 0));
    assert_int_equal(broker_counts(scene->broker).late, 3);
    assert_int_equal(broker_counts(scene->broker).results, 2);
    assert_int_equal(scene->released, 1);
}

// A silent peer's leases go to another, oldest first; a heartbeat would have kept them.
static void test_silence(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 8, 0);
    uint64_t first = broker_submit(scene->broker, 1)->id;
    uint64_t second = broker_submit(scene->broker, 1)->id;
    broker_match(scene->broker, 0);
    join(scene, "b", 8, HEARTBEAT_LOST_MS);
    broker_tick(scene->broker, HEARTBEAT_LOST_MS);
    assert_int_equal(broker_counts(scene->broker).peers, 2);
    broker_tick(scene->broker, HEARTBEAT_LOST_MS + 1);
    assert_string_equal(scene->left, "a");
    broker_match(scene->broker, HEARTBEAT_LOST_MS + 1);
    assert_int_equal(scene->sent_count, 4);
    assert_int_equal(scene->sent[2].lease, first);
    assert_int_equal(scene->sent[3].lease, second);
    assert_string_equal(scene->sent[3].peer, "b");
    assert_int_equal(broker_counts(scene->broker).lost, 1);
    assert_int_equal(broker_counts(scene->broker).returned, 2);
}

// An overdue lease is leased again, elsewhere when there is an elsewhere.
static void test_deadline(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 8, 0);
    uint64_t id = broker_submit(scene->broker, 1)->id;
    broker_match(scene->broker, 0);
    join(scene, "b", 8, 59999);
    broker_peer(scene->broker, "a")->heard_ms = 59999;
    broker_tick(scene->broker, 59999);
    broker_match(scene->broker, 59999);
    assert_int_equal(scene->sent_count, 1);
    broker_tick(scene->broker, 60000);
    broker_match(scene->broker, 60000);
    assert_int_equal(scene->sent_count, 2);
    assert_int_equal(scene->sent[1].lease, id);
    assert_string_equal(scene->sent[1].peer, "b");
}

// A request that fails everywhere is given up after LEASE_ATTEMPTS_MAX tries, once.
static void test_bounded_attempts(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 8, 0);
    join(scene, "b", 8, 0);
    uint64_t id = broker_submit(scene->broker, 1)->id;
    for (int i = 0; i < LEASE_ATTEMPTS_MAX; i++) {
        broker_match(scene->broker, 0);
        assert_int_equal(scene->sent_count, i + 1);
        assert_true(i == 0 ||
                    strcmp(scene->sent[i].peer, scene->sent[i - 1].peer) != 0); // elsewhere
        broker_retry(scene->broker, broker_find(scene->broker, id));
    }
    assert_int_equal(scene->given_up, 1);
    assert_null(broker_find(scene->broker, id));
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, LEASE_ATTEMPTS_MAX);
}

// A request that loses every worker comes to an end too.
static void test_bounded_returns(void **state)
{
    struct scene *scene = *state;
    assert_non_null(broker_submit(scene->broker, 1));
    for (int i = 0; i < LEASE_RETURNS_MAX; i++) {
        scene->sent_count = 0;
        struct peer *peer = join(scene, "a", 8, 0);
        broker_match(scene->broker, 0);
        assert_int_equal(scene->sent_count, 1);
        broker_leave(scene->broker, peer, "died");
    }
    assert_int_equal(scene->given_up, 1);
    assert_int_equal(broker_counts(scene->broker).waiting, 0);
}

// A prompt with more samples than a peer has credit is leased when the peer holds nothing else, and
// small requests behind it do not overtake it.
static void test_large_request(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 2, 0);
    uint64_t small = broker_submit(scene->broker, 1)->id;
    uint64_t large = broker_submit(scene->broker, 5)->id;
    assert_non_null(broker_submit(scene->broker, 1));
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, 1);
    broker_end(scene->broker, broker_result(scene->broker, small, 0));
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, 2);
    assert_int_equal(scene->sent[1].lease, large);
}

// A full pipe keeps the lease waiting; a peer that drains gets nothing; one that rejoins begins
// anew.
static void test_pushed_back(void **state)
{
    struct scene *scene = *state;
    struct peer *peer = join(scene, "a", 8, 0);
    assert_non_null(broker_submit(scene->broker, 1));
    scene->send_code = -EAGAIN;
    broker_match(scene->broker, 0);
    assert_int_equal(broker_counts(scene->broker).waiting, 1);
    scene->send_code = 0;
    peer->draining = true;
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, 0);
    join(scene, "a", 8, 1);
    broker_match(scene->broker, 0);
    assert_int_equal(scene->sent_count, 1);
    assert_int_equal(broker_counts(scene->broker).peers, 1);
}

// A peer that cannot be reached is let go at once, and what it held goes to the next, in order.
static void test_gone(void **state)
{
    struct scene *scene = *state;
    join(scene, "a", 8, 0);
    uint64_t first = broker_submit(scene->broker, 1)->id;
    broker_match(scene->broker, 0);
    uint64_t second = broker_submit(scene->broker, 1)->id;
    scene->send_code = -EHOSTUNREACH;
    broker_match(scene->broker, 0);
    assert_string_equal(scene->left, "a");
    assert_int_equal(broker_counts(scene->broker).peers, 0);
    assert_int_equal(broker_counts(scene->broker).waiting, 2);
    scene->send_code = 0;
    join(scene, "b", 8, 1);
    broker_match(scene->broker, 1);
    assert_int_equal(scene->sent_count, 3);
    assert_int_equal(scene->sent[1].lease, first);
    assert_int_equal(scene->sent[2].lease, second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_credit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded_attempts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded_returns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pushed_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
