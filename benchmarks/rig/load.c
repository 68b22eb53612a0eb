// The clients: many connections in one thread, each reads its answers to the last byte.
//
//   load -p PORT -f FILE [-n 1] [-r N] [-t 1] [-g 0] [-k] [-h] [-l TOKENS -o LEFT]
//
//   -p, -f  127.0.0.1:PORT gets the bytes of FILE, a whole HTTP request
//   -n, -r  connections at a time; answers in all
//   -t      tokens that an answer must have: 0 to t - 1 in their order, all of one answer
//   -g      microseconds between two new connections at the start
//   -k      one connection serves many answers; else each has its own
//   -h      hold: print a line when every stream has its first token, and one for each line of
//           standard input; at its end leave them all
//   -l, -o  leave: each client leaves after that many tokens; LEFT gets lines "ID NS"
//
// Tokens are "@ID:SEQ:NS@" (see upstream.c), looked for in the texts that JSON calls "content", also
// if a relay cut them. Prints JSON at its end; exit 1 if an answer was not as it must be.
#include "rig.h"

enum { INPUT = 1 << 18, HEAD = 4096, SAMPLES = 20 * 1000 * 1000 };
static const uint64_t PATIENCE = 30; // seconds without a byte

typedef struct {
    int fd, on, asked;
    int status, in_body, chunked, closes, ended;
    long length;                      // bytes of the body to come, -1 = until the end
    int line;                         // chunked: 0 size, 1 data, 2 its line end, 3 trailer
    int extension, any;
    long seen, expected, id;          // tokens
    int match, text, field;           // where in JSON, in a text, in a token
    unsigned long long number[3];
    uint64_t began;
    int headed;
    char head[HEAD];
} Conn;

static struct { int port, streams, answers, keep, hold, leave; long tokens, ramp; FILE *left; } want =
    {.streams = 1, .tokens = 1};
static Conn *conns;
static int *by_fd, poll_fd, started, finished, bad, disorder, open_now;
static uint64_t tokens, bytes, reads, last;
static char request[1 << 16], first_bad[400];
static size_t request_size;
typedef struct { uint32_t *at; size_t used, room; } Samples; // microseconds
static Samples ages, firsts;

static void sample(Samples *s, uint64_t nanoseconds) {
    if (s->used < s->room) s->at[s->used++] = nanoseconds / 1000;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static unsigned quantile(const Samples *s, double q) {
    return s->used ? s->at[(size_t)((s->used - 1) * q)] : 0;
}

static void start_answer(Conn *c) {
    int fd = c->fd, on = c->on;
    memset(c, 0, sizeof *c);
    c->fd = fd, c->on = on, c->length = -1, c->began = now();
    started++;
}

static void connect_one(Conn *c) {
    struct sockaddr_in address = loopback(want.port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    c->on = 1;
    by_fd[c->fd] = c - conns;
    open_now++;
    tcp_without_delay(c->fd);
    start_answer(c);
    connect(c->fd, (void *)&address, sizeof address);
    watch(poll_fd, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1);
}

static void hang_up(Conn *c) {
    close(c->fd);
    c->on = 0;
    open_now--;
}

static int left_early(const Conn *c) {
    return want.leave && c->seen >= want.leave;
}

static void judge(const Conn *c) {
    int complete = c->status == 200 && c->ended && c->seen == want.tokens;
    if (complete || left_early(c)) return;
    if (!bad++)
        snprintf(first_bad, sizeof first_bad, "status %d, %ld of %ld tokens, %s: %.200s", c->status,
                 c->seen, want.tokens, c->ended ? "ended" : "cut", c->head);
}

static void finish(Conn *c) {
    judge(c);
    finished++;
    if (want.keep && c->ended && !c->closes && started < want.answers) {
        start_answer(c);
        c->asked = 1;
        if (write(c->fd, request, request_size) == (ssize_t)request_size) return;
        started--;
    }
    hang_up(c);
    if (started < want.answers) connect_one(c);
}

static void leave(Conn *c) {
    uint64_t t = now();
    close(c->fd);
    fprintf(want.left, "%ld %llu\n", c->id, (unsigned long long)t);
    c->on = 0;
    open_now--;
    finished++;
    if (started < want.answers) connect_one(c);
}

static void on_token(Conn *c, uint64_t t) {
    unsigned long long id = c->number[0], seq = c->number[1], ns = c->number[2];
    if (c->seen == 0) {
        c->id = id;
        sample(&firsts, t - c->began);
    }
    if ((long)id != c->id || (long)seq != c->expected) disorder++;
    c->expected = seq + 1;
    c->seen++;
    tokens++;
    sample(&ages, t - ns);
}

// One character of a text.
static void on_text(Conn *c, char ch, uint64_t t) {
    if (ch == '@') {
        if (c->field == 3) on_token(c, t);
        c->field = c->field == 3 ? 0 : 1;
        memset(c->number, 0, sizeof c->number);
    } else if (c->field && ch >= '0' && ch <= '9') {
        c->number[c->field - 1] = c->number[c->field - 1] * 10 + (ch - '0');
    } else if (ch == ':' && c->field && c->field < 3) {
        c->field++;
    } else {
        c->field = 0;
    }
}

static void on_body(Conn *c, const char *data, size_t size, uint64_t t) {
    static const char key[] = "\"content\":";
    for (size_t i = 0; i < size; i++) {
        char ch = data[i];
        if (c->text) {
            if (ch == '"') c->text = 0;
            else on_text(c, ch, t);
        } else if (c->match == sizeof key - 1) {
            if (ch == ' ') continue;
            c->text = ch == '"';
            c->match = 0;
        } else if (ch == key[c->match]) {
            c->match++;
        } else {
            c->match = ch == '"';
        }
    }
}

static void on_size_line(Conn *c, char ch) {
    if (ch == '\n') {
        c->line = c->length ? 1 : 3;
        c->extension = c->any = 0;
    } else if (ch == ';') {
        c->extension = 1;
    } else if (ch != '\r' && !c->extension) {
        c->length = c->length * 16 + (ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10);
    }
}

static void on_trailer(Conn *c, char ch) {
    if (ch == '\n') {
        c->ended = !c->any;
        c->any = 0;
    } else if (ch != '\r') {
        c->any = 1;
    }
}

static void on_chunked(Conn *c, const char *data, size_t size, uint64_t t) {
    for (size_t i = 0, n; i < size && !c->ended; i += n) {
        n = 1;
        if (c->line == 0) {
            on_size_line(c, data[i]);
        } else if (c->line == 1) {
            n = size - i < (size_t)c->length ? size - i : (size_t)c->length;
            on_body(c, data + i, n, t);
            c->length -= n;
            c->line = c->length ? 1 : 2;
        } else if (c->line == 2) {
            if (data[i] == '\n') c->line = 0;
        } else {
            on_trailer(c, data[i]);
        }
    }
}

static void on_data(Conn *c, const char *data, size_t size, uint64_t t) {
    if (c->chunked) {
        on_chunked(c, data, size, t);
        return;
    }
    on_body(c, data, size, t);
    if (c->length < 0) return;
    c->length -= size;
    c->ended = c->length <= 0;
}

// The head may come in pieces; what follows it is body.
static void on_head(Conn *c, const char *data, size_t size, uint64_t t) {
    size_t room = HEAD - 1 - c->headed, taken = size < room ? size : room;
    memcpy(c->head + c->headed, data, taken);
    c->headed += taken;
    c->head[c->headed] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (end == NULL) return;
    size_t body = c->headed - (end + 4 - c->head);
    end[2] = 0;
    c->in_body = 1;
    c->status = atoi(c->head + 9);
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL;
    const char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->length = c->chunked ? 0 : length ? atol(length + 17) : -1;
    on_data(c, data + taken - body, size - taken + body, t);
}

static void ask(Conn *c) {
    if (c->asked) return;
    if (write(c->fd, request, request_size) != (ssize_t)request_size) {
        snprintf(c->head, HEAD, "cannot send: %s", strerror(errno));
        finish(c);
        return;
    }
    c->asked = 1;
    watch(poll_fd, c->fd, EPOLLIN | EPOLLRDHUP, 0);
}

static void receive(Conn *c) {
    static char data[INPUT];
    ssize_t n = read(c->fd, data, sizeof data);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (n == 0 && c->in_body && !c->chunked && c->length < 0) c->ended = c->closes = 1;
        finish(c);
        return;
    }
    uint64_t t = last = now();
    bytes += n;
    reads++;
    if (c->in_body) on_data(c, data, n, t);
    else on_head(c, data, n, t);
    if (left_early(c)) leave(c);
    else if (c->ended || (c->in_body && c->status != 200)) finish(c);
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void snapshot(void) {
    printf("{\"open\":%d,\"finished\":%d,\"bad\":%d,\"disorder\":%d,\"tokens\":%llu,\"bytes\":%llu,"
           "\"cpu_s\":%.6f,\"now_ns\":%llu}\n",
           open_now, finished, bad, disorder, (unsigned long long)tokens, (unsigned long long)bytes,
           cpu_seconds(), (unsigned long long)now());
    fflush(stdout);
}

static void print_quantiles(const char *name, Samples *s) {
    qsort(s->at, s->used, sizeof *s->at, ascending);
    printf(",\"%s\":{\"p50\":%u,\"p90\":%u,\"p99\":%u,\"max\":%u}", name, quantile(s, .5),
           quantile(s, .9), quantile(s, .99), quantile(s, 1));
}

static void print_string(const char *name, const char *text) {
    printf(",\"%s\":\"", name);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') printf("\\%c", *text);
        else putchar(*text >= 32 && *text < 127 ? *text : ' ');
    }
    putchar('"');
}

static int report(uint64_t began) {
    printf("{\"answers\":%d,\"bad\":%d,\"disorder\":%d,\"tokens\":%llu,\"bytes\":%llu,"
           "\"reads\":%llu,\"seconds\":%.6f,\"cpu_s\":%.6f",
           finished, bad, disorder, (unsigned long long)tokens, (unsigned long long)bytes,
           (unsigned long long)reads, (now() - began) / 1e9, cpu_seconds());
    print_quantiles("age_us", &ages);
    print_quantiles("first_us", &firsts);
    print_string("first_bad", first_bad);
    printf("}\n");
    return bad || disorder;
}

// 1 = goes on, 0 = standard input is at its end.
static int on_stdin(void) {
    char line[256];
    if (read(0, line, sizeof line) <= 0) return 0;
    snapshot();
    return 1;
}

static void read_arguments(int count, char **arguments) {
    int option, file = -1;
    while ((option = getopt(count, arguments, "p:f:n:r:t:g:khl:o:")) != -1) switch (option) {
        case 'p': want.port = atoi(optarg); break;
        case 'f': file = open(optarg, O_RDONLY); break;
        case 'n': want.streams = atoi(optarg); break;
        case 'r': want.answers = atoi(optarg); break;
        case 't': want.tokens = atol(optarg); break;
        case 'g': want.ramp = atol(optarg); break;
        case 'k': want.keep = 1; break;
        case 'h': want.hold = 1; break;
        case 'l': want.leave = atoi(optarg); break;
        case 'o': want.left = fopen(optarg, "w"); break;
        default: exit(2);
        }
    ssize_t size = read(file, request, sizeof request);
    if (size <= 0 || !want.port || (want.leave && !want.left)) exit(2);
    request_size = size;
    if (!want.answers) want.answers = want.streams;
}

static void reserve(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    conns = calloc(want.streams, sizeof *conns);
    by_fd = calloc(limit.rlim_cur < 1 << 20 ? limit.rlim_cur : 1 << 20, sizeof *by_fd);
    double all = (double)want.answers * want.tokens;
    ages.room = all < SAMPLES ? all : SAMPLES;
    firsts.room = want.answers;
    ages.at = malloc(ages.room * sizeof *ages.at + 1);
    firsts.at = malloc(firsts.room * sizeof *firsts.at + 1);
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    read_arguments(count, arguments);
    reserve();
    poll_fd = epoll_create1(0);
    if (want.hold) watch(poll_fd, 0, EPOLLIN, 1);
    uint64_t began = now(), next = began;
    int connected = 0, held = 0;
    static struct epoll_event events[READY];
    last = began;
    while (finished < want.answers) {
        while (connected < want.streams && started < want.answers && next <= now()) {
            connect_one(&conns[connected++]);
            next += want.ramp * 1000;
        }
        int n = epoll_wait(poll_fd, events, READY, connected < want.streams ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == 0 && want.hold) {
                if (!on_stdin()) return report(began);
                continue;
            }
            Conn *c = &conns[by_fd[fd]];
            if (c->on && c->fd == fd && events[i].events & EPOLLOUT) ask(c);
            if (c->on && c->fd == fd && events[i].events & ~EPOLLOUT) receive(c);
        }
        if (want.hold && !held && firsts.used == (size_t)want.streams) {
            held = 1;
            snapshot();
        }
        if (now() - last > PATIENCE * SECOND) {
            snprintf(first_bad, sizeof first_bad, "nothing came for 30 s; %d open", open_now);
            bad += want.answers - finished;
            break;
        }
    }
    return report(began);
}
