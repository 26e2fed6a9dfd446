// watch.h: says in the log who waits for whom when nothing comes. Leases and heartbeats bound every
// wait for a worker; this names the wait for whoever reads the log.
#ifndef LEARNER_WATCH_H
#define LEARNER_WATCH_H

#include "learner/hub.h"

enum { WATCH_MS = 10000 }; // between two looks

struct watch;

// watch_open looks at the hub (borrowed; close the watch first) every WATCH_MS and warns while work
// is asked for and no result comes. watch_close accepts NULL.
int watch_open(struct watch **out, uv_loop_t *loop, const struct hub *hub, struct error *err);
void watch_close(struct watch *watch);

// watch_sentence is what the log says, or NULL when nobody waits for a worker.
const char *watch_sentence(const struct hub_stats *actors, const struct hub_stats *verifiers);

#endif
