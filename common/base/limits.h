// limits.h: every bound in the system, and how they relate. A module that needs a bound puts it
// here.
#ifndef COMMON_BASE_LIMITS_H
#define COMMON_BASE_LIMITS_H

enum {
    LOG_LINE_MAX = 2048, // bytes of one log line

    // Text of a task. AZR.md section 3 bounds a repr at 4096; the rest keeps messages small.
    PROGRAM_BYTES_MAX = 65536,     // source of one program
    INPUT_BYTES_MAX = 16384,       // one argument list
    OUTPUT_BYTES_MAX = 4096,       // repr of one result
    MESSAGE_BYTES_MAX = 16384,     // the hint of an induction task
    TASK_INPUTS_MAX = 64,          // input/output pairs of one task
    TASK_REFERENCES_MAX = 64,      // references shown in one proposal prompt
    COMPOSITES_MAX = 8,            // stored functions that one proposed program must call
    INDUCTION_CANDIDATES_MAX = 64, // stored programs among which an induction proposal's is chosen

    // Tokenizers.
    VOCAB_MAX = 1 << 20,  // ids of one tokenizer; the largest in use have 262,144
    MERGES_MAX = 1 << 21, // merges of one tokenizer
    // Evaluation.
    EVAL_TASKS_MAX = 10000, // held-out tasks of one type

    // Verifier.
    VERIFY_TIMEOUT_MS_MAX = 600000,    // wall time of one run
    VERIFY_WAITED_MS_MAX = 10000,      // on top of it, for what it had to wait for a processor
    VERIFY_IMAGES_MAX = 8,             // interpreters that must agree
    VERIFY_WORKERS_MAX = 1024,         // sandboxes that run at once in one daemon
    RUN_OUTPUT_BYTES_MAX = 1 << 20,    // repr of one result of a trusted run (check RUN)
    IMAGE_FRAME_MAX = 12 << 20,        // bytes that a sandbox may say at once
    VERIFY_CACHE_BYTES_MAX = 64 << 20, // programs, and as much again for verdicts

    // Sequences.
    PROMPT_TOKENS_MAX = 32768,    // prompt of one rollout
    RESPONSE_TOKENS_MAX = 32768,  // response of one rollout
    SAMPLES_MAX = 1024,           // rollouts of one prompt
    STALENESS_MAX = 64,           // versions that training data may be old
    RESPONSE_BYTES_MAX = 1 << 20, // decoded response

    // Wire.
    MESSAGE_FRAME_MAX = 8 << 20, // bytes of an encoded envelope
    RAW_FRAME_MAX = 4 << 20,     // bytes of a raw second frame; also the largest weight chunk
    WORKERS_MAX = 4096,          // actors and verifiers connected at once
    CREDITS_MAX = 65536,         // work in flight at one worker
    HEARTBEAT_MS = 1000,         // a worker says that it lives this often
    HEARTBEAT_LOST_MS = 5000,    // silence after which a worker's leases go back
    WEIGHTS_BLOB_MAX_GB = 64,    // one version of weights
    REQUESTS_MAX = 1 << 22,      // requests of one kind that the learner has open
    LEASE_ATTEMPTS_MAX = 4,      // workers that may fail one request before it is given up
    LEASE_RETURNS_MAX = 64,      // times that a request may come back from lost workers

    // Messages and sockets.
    MESSAGE_ARENA_MAX = 64 << 20,  // bytes of a decoded envelope
    NAME_BYTES_MAX = 127,          // a worker's name, host, engine; a style; a type
    SENTENCE_BYTES_MAX = 4096,     // a reason, note or detail for a person
    ENDPOINT_BYTES_MAX = 511,      // a socket's address
    ZSOCK_QUEUE_MAX = 4096,        // messages that wait in a socket for one peer
    ZSOCK_LINGER_MS = 1000,        // a closed socket goes on sending for so long
    ZSOCK_RECONNECT_MS = 100,      // a lost connection is tried again this often
    ZSOCK_CONNECT_MS = 5000,       // a try to connect is given up after so long
    ZSOCK_KEEPALIVE_S = 15,        // an idle TCP connection is probed after so long
    OUTBOX_MAX = 131072,           // results that wait at a worker for an acknowledgement
    ACK_LOST_MS = 10000,           // a result without acknowledgement is sent again after so long
    WEIGHTS_CHUNK_BYTES = 1 << 20, // of every chunk but the last
    WEIGHTS_HELD = 2,              // versions that the learner keeps to be fetched
    WEIGHTS_WINDOW = 8,            // chunks that an actor has asked for at once
    WEIGHTS_RETRY_MS = 5000,       // a chunk that did not come is asked for again after so long
    WEIGHTS_STALL_MS = 30000,      // without any chunk for so long the connection is made anew
    WEIGHTS_STALLS_MAX = 4,        // such renewals, then a version is given up
    WEIGHTS_BAD_MAX = 16,          // chunks with a wrong hash, then a version is given up
    WEIGHTS_FILES_MAX = 16,        // config.json, tokenizer.json, ...: travel with the weights
    HTTP_CONNECTIONS_MAX = 64,     // to one daemon's /metrics at once
    HTTP_IDLE_S = 10,              // a connection without a whole request is closed after so long
    DRAIN_MS = 5000,               // a learner that ends waits for its workers so long
    DRAIN_TURN_MS = 50,            // and looks so often whether they have gone
    LEAVE_MS = 10000,              // a worker that leaves waits for its acknowledgements so long

    // Files that are read whole.
    CONFIG_BYTES_MAX = 1 << 20,
    JSON_BYTES_MAX = 64 << 20, // tokenizer.json of a large vocabulary is 11 MB
    JSON_DEPTH_MAX = 64,
    POSITIONS_MAX = 1 << 22, // of a model; the longest context in use is 1,048,576
    GGUF_KEYS_MAX = 1 << 16,
    GGUF_TENSORS_MAX = 1 << 16,
};

_Static_assert(HEARTBEAT_LOST_MS >= 3 * HEARTBEAT_MS, "two heartbeats may be lost");
_Static_assert(WEIGHTS_CHUNK_BYTES <= RAW_FRAME_MAX, "a chunk fits its frame");
_Static_assert(OUTBOX_MAX >= 2 * CREDITS_MAX, "all that a worker may hold can wait");
_Static_assert(IMAGE_FRAME_MAX > 9 * RUN_OUTPUT_BYTES_MAX,
               "a typed value and its repr fit a frame");
_Static_assert(RUN_OUTPUT_BYTES_MAX + PROGRAM_BYTES_MAX < MESSAGE_FRAME_MAX,
               "the verdict of a trusted run fits one message");
_Static_assert(RESPONSE_BYTES_MAX + 2 * RESPONSE_TOKENS_MAX * 8 + PROMPT_TOKENS_MAX * 5 <
                   MESSAGE_FRAME_MAX,
               "a rollout fits one message");

#endif
