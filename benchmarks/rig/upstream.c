// A language-model API that costs next to nothing: one thread, epoll, a timer wheel of 1 ms.
//
//   upstream LEFT     listens on a free port of 127.0.0.1 and prints it; ends with SIGTERM
//
// A POST is answered as /v1/chat/completions answers. What it wants stands in its prompt, so that
// it reaches us through any relay: "tokens=500 every=20000" = 500 tokens, one each 20,000
// microseconds (0: as fast as they are taken). `"stream": true` gives a stream, else a JSON body.
// Token number SEQ of answer number ID is the text "@ID:SEQ:NS@ ", NS the nanosecond of its write.
// An answer that its reader left before its end adds the line "ID NS" to the file LEFT.
#include "rig.h"

enum { FDS = 1 << 17, INPUT = 1 << 14, WHEEL = 1 << 16 };

typedef struct Conn {
    int fd, streaming, blocked, wants_usage;
    long id, seq, tokens;
    uint64_t every, due;          // nanoseconds
    struct Conn *next, **prev;    // its slot of the wheel
    char *out;
    size_t used, sent, room;
    size_t filled;
    char in[INPUT];
} Conn;

static Conn *conns[FDS], *wheel[WHEEL];
static int poll_fd;
static long answers;
static FILE *left;

#define FRAME "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\"," \
    "\"created\":1741569952,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_44709d6fcb\","
#define CHOICE FRAME "\"choices\":[{\"index\":0,\"delta\":"
#define USAGE "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%ld,\"total_tokens\":%ld}"
#define END "\r\n\r\n"

static void put(Conn *c, const char *data, size_t size) {
    if (c->used + size > c->room) {
        c->room = (c->used + size) * 2;
        c->out = realloc(c->out, c->room);
    }
    memcpy(c->out + c->used, data, size);
    c->used += size;
}

// One HTTP chunk.
static void put_chunk(Conn *c, const char *data, size_t size) {
    char head[16];
    put(c, head, sprintf(head, "%zx\r\n", size));
    put(c, data, size);
    put(c, "\r\n", 2);
}

static void off_wheel(Conn *c) {
    if (c->prev == NULL) return;
    *c->prev = c->next;
    if (c->next) c->next->prev = c->prev;
    c->prev = NULL;
}

static void on_wheel(Conn *c) {
    off_wheel(c);
    Conn **slot = &wheel[(c->due / MS + 1) % WHEEL];
    c->next = *slot;
    if (c->next) c->next->prev = &c->next;
    c->prev = slot;
    *slot = c;
}

static void drop(Conn *c) {
    if (c->streaming) fprintf(left, "%ld %llu\n", c->id, (unsigned long long)now());
    off_wheel(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->out);
    free(c);
}

// Write what there is; 0 = all of it, 1 = the socket is full, -1 = the connection is gone.
static int flush(Conn *c) {
    while (c->sent < c->used) {
        ssize_t n = write(c->fd, c->out + c->sent, c->used - c->sent);
        if (n < 0 && errno == EAGAIN) {
            if (!c->blocked) watch(poll_fd, c->fd, EPOLLIN | EPOLLRDHUP | EPOLLOUT, 0);
            return c->blocked = 1;
        }
        if (n < 0) {
            drop(c);
            return -1;
        }
        c->sent += n;
    }
    c->sent = c->used = 0;
    return 0;
}

static void put_token(Conn *c) {
    char frame[512];
    int size = sprintf(frame,
                       "data: " CHOICE "{\"content\":\"@%ld:%ld:%llu@ \"},\"logprobs\":null,"
                       "\"finish_reason\":null}]}\n\n",
                       c->id, c->seq++, (unsigned long long)now());
    put_chunk(c, frame, size);
}

static void put_end(Conn *c) {
    static const char stop[] = "data: " CHOICE "{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
    put_chunk(c, stop, sizeof stop - 1);
    if (c->wants_usage) {
        char frame[512];
        put_chunk(c, frame, sprintf(frame, "data: " FRAME "\"choices\":[]," USAGE "}\n\n", c->tokens,
                                    9 + c->tokens));
    }
    put_chunk(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n", 5);
    c->streaming = 0;
}

// Send what is due; -1 = the connection is gone.
static int pump(Conn *c) {
    uint64_t t = now();
    while (c->streaming && !c->blocked && c->due <= t) {
        if (c->seq < c->tokens) put_token(c);
        else put_end(c);
        c->due += c->every;
        int full = flush(c);
        if (full) return full < 0 ? -1 : 0;
        if (c->every == 0) continue;
        t = now();
    }
    if (c->streaming && !c->blocked) on_wheel(c);
    return 0;
}

static int answer_stream(Conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                               "Cache-Control: no-cache\r\nX-Request-Id: req_0123456789\r\n"
                               "Transfer-Encoding: chunked" END;
    static const char role[] = "data: " CHOICE "{\"role\":\"assistant\",\"content\":\"\"},"
                               "\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    put(c, head, sizeof head - 1);
    put_chunk(c, role, sizeof role - 1);
    c->streaming = 1;
    c->due = now();
    return pump(c);
}

static int answer_json(Conn *c) {
    char body[1024], head[256];
    int size = sprintf(body,
                       "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion\","
                       "\"created\":1741569952,\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,"
                       "\"message\":{\"role\":\"assistant\",\"content\":\"@%ld:0:%llu@ \"},"
                       "\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE "}",
                       c->id, (unsigned long long)now(), 1l, 10l);
    put(c, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "X-Request-Id: req_0123456789\r\nContent-Length: %d" END, size));
    put(c, body, size);
    return flush(c) < 0 ? -1 : 0;
}

static int answer_get(Conn *c) {
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Content-Length: 80" END
                               "{\"object\":\"list\",\"data\":[{\"id\":\"gpt-4o-mini\",\"object\":"
                               "\"model\",\"created\":17415699}]}";
    put(c, text, sizeof text - 1);
    return flush(c) < 0 ? -1 : 0;
}

static long number_after(const char *text, const char *name, long otherwise) {
    const char *found = strstr(text, name);
    return found ? atol(found + strlen(name)) : otherwise;
}

static int answer(Conn *c, const char *request) {
    if (!strncmp(request, "GET ", 4)) return answer_get(c);
    c->id = answers++;
    c->seq = 0;
    c->tokens = number_after(request, "tokens=", 1);
    c->every = (uint64_t)number_after(request, "every=", 0) * 1000;
    c->wants_usage = strstr(request, "include_usage") != NULL;
    const char *stream = strstr(request, "\"stream\":");
    int streams = stream && !strncmp(stream + 9 + strspn(stream + 9, " "), "true", 4);
    return streams ? answer_stream(c) : answer_json(c);
}

// The bytes of the first whole request in the input, 0 if it is not whole yet.
static size_t whole(const char *in, size_t filled) {
    const char *end = strstr(in, END);
    if (end == NULL) return 0;
    size_t head = end + 4 - in, size = head;
    const char *length = strcasestr(in, "\r\ncontent-length:");
    if (length && length < end) size += atol(length + 17);
    const char *coding = strcasestr(in, "\r\ntransfer-encoding: chunked");
    if (coding && coding < end) {
        const char *last = strstr(end, "\r\n0" END);
        if (last == NULL) return 0;
        size = last + 7 - in;
    }
    return size <= filled ? size : 0;
}

static void take_requests(Conn *c) {
    size_t size;
    while (!c->streaming && (size = whole(c->in, c->filled))) {
        char request[INPUT];
        memcpy(request, c->in, size);
        request[size] = 0;
        c->filled -= size;
        memmove(c->in, c->in + size, c->filled + 1);
        if (answer(c, request) < 0) return;
    }
}

static void on_event(Conn *c, uint32_t events) {
    if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
        drop(c);
        return;
    }
    if (events & EPOLLOUT) {
        c->blocked = 0;
        watch(poll_fd, c->fd, EPOLLIN | EPOLLRDHUP, 0);
        if (flush(c) < 0 || pump(c) < 0) return;
    }
    if (events & EPOLLIN) {
        ssize_t n = read(c->fd, c->in + c->filled, INPUT - 1 - c->filled);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            drop(c);
            return;
        }
        c->filled += n;
        c->in[c->filled] = 0;
        take_requests(c);
    }
}

static void accept_all(int listening) {
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        tcp_without_delay(fd);
        conns[fd] = calloc(1, sizeof(Conn));
        conns[fd]->fd = fd;
        watch(poll_fd, fd, EPOLLIN | EPOLLRDHUP, 1);
    }
}

// Everything that was due since the last tick.
static void on_tick(int timer) {
    static uint64_t done;
    uint64_t ticks, until = now() / MS;
    if (read(timer, &ticks, sizeof ticks) < 0) return;
    if (done == 0) done = until - 1;
    while (done < until) {
        Conn *c, *due = wheel[++done % WHEEL];
        wheel[done % WHEEL] = NULL;
        if (due) due->prev = &due;
        while ((c = due)) {
            off_wheel(c);
            pump(c);
        }
    }
}

static void stop(int number) {
    (void)number;
    fflush(left);
    _exit(0);
}

int main(int count, char **arguments) {
    if (count != 2 || (left = fopen(arguments[1], "w")) == NULL) return 2;
    setvbuf(left, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stop);
    raise_descriptors();
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listening, (void *)&address, size) || listen(listening, 4096)) return 1;
    getsockname(listening, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    poll_fd = epoll_create1(0);
    watch(poll_fd, listening, EPOLLIN, 1);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec each = {{0, MS}, {0, MS}};
    timerfd_settime(timer, 0, &each, NULL);
    watch(poll_fd, timer, EPOLLIN, 1);
    static struct epoll_event events[READY];
    for (;;) {
        int n = epoll_wait(poll_fd, events, READY, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) accept_all(fd);
            else if (fd == timer) on_tick(fd);
            else if (conns[fd]) on_event(conns[fd], events[i].events);
        }
    }
}
