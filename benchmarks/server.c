/*
 * The service as cheap as it gets: one process, one epoll loop, every answer a patched template.
 *
 * It stands in for the loyalty service in benchmarks only. Every customer gets a success with ids of its own;
 * nothing is remembered and nothing of a request is understood but its path and how many customers it names.
 *
 * Usage: server [REQUESTS_PER_MINUTE]
 * Prints its port. With a limit, requests beyond it in any sliding minute are answered 429, without Retry-After,
 * and GET /log gives a line for each request: its time in seconds and its status.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 4096, LONGEST_REQUEST = 1 << 16, MOST_ITEMS = 1000, LONGEST_ANSWER = 1 << 18 };

/* Each # is a digit: of the number of this customer, counted from the start. */
#define ITEM                                                                                              \
    "{\"result\":{\"entityType\":\"CUSTOMER\",\"entityId\":4#########,\"promotionId\":69218,"             \
    "\"programId\":469,\"issualId\":\"7#########\",\"earnedId\":\"8#########\"},\"errors\":[],\"warnings\":[]},"
#define COUPON                                                                                            \
    "{\"code\":\"C#########\",\"seriesId\":544770,\"description\":\"Festival coupon\",\"discountCode\":\"erg123\"," \
    "\"validTill\":\"2027-05-09T00:00:00Z\",\"discountType\":\"ABS\",\"discountValue\":500.0,\"discountUpto\":0.0," \
    "\"discountOn\":\"BILL\",\"detailedInfo\":\"\",\"customer\":{\"id\":4#########,\"profiles\":[]}," \
    "\"redemptionCount\":0,\"id\":0,\"warnings\":[]}"
#define TOKEN "{\"data\":{\"accessToken\":\"bench\",\"ttlSeconds\":86400},\"errors\":[]}"

struct connection { size_t held; char request[LONGEST_REQUEST]; };
struct entry { double at; int status; };

static struct connection *connections[MOST_CONNECTIONS];
static struct entry *entries;
static size_t entries_held, entries_room;
static double *window; /* when the last `limit` requests were let through */
static long limit, let_through;
static long requests, customers;
static char answer[LONGEST_ANSWER];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int status_of_this_one(void) {
    if (!limit) return 200;
    double at = now(), *oldest = &window[let_through % limit];
    int status = let_through >= limit && at - *oldest < 60.0 ? 429 : 200;
    if (status == 200) {
        *oldest = at;
        let_through++;
    }
    if (entries_held == entries_room) {
        entries_room = entries_room ? 2 * entries_room : 1024;
        entries = realloc(entries, entries_room * sizeof *entries);
    }
    entries[entries_held++] = (struct entry){at, status};
    return status;
}

/* Copies a template with its digits, and returns what follows the copy. */
static char *patched(char *to, const char *template, size_t size) {
    char digits[9];
    long number = customers++;
    for (int i = 8; i >= 0; i--, number /= 10) digits[i] = '0' + number % 10;
    memcpy(to, template, size);
    for (char *place = to; (place = memchr(place, '#', to + size - place)); place += 9) memcpy(place, digits, 9);
    return to + size;
}

static char *bulk(char *to, const char *body, size_t size) {
    static const char name[] = "\"identifierValue\"", head[] = "{\"response\":[", tail[] = "],\"totalCount\":%d,\"failureCount\":0}";
    const char *place = body, *end = body + size;
    int items = 0;
    to = stpcpy(to, head);
    for (; items < MOST_ITEMS && (place = memmem(place, end - place, name, sizeof name - 1)); place += sizeof name, items++)
        to = patched(to, ITEM, sizeof ITEM - 1);
    return to - (items > 0) + sprintf(to - (items > 0), tail, items);
}

static void send_whole(int fd, const char *from, size_t size) {
    while (size) {
        ssize_t sent = write(fd, from, size);
        if (sent > 0) from += sent, size -= sent;
        else if (sent < 0 && errno == EAGAIN) poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 1000);
        else if (sent < 0 && errno != EINTR) return; /* gone: the next read says so */
    }
}

static void send_log(int fd) {
    size_t size = 0, room = 64 + entries_held * 32;
    char *text = malloc(room), head[128];
    for (size_t i = 0; i < entries_held; i++)
        size += snprintf(text + size, room - size, "%.6f %d\n", entries[i].at, entries[i].status);
    send_whole(fd, head, sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", size));
    send_whole(fd, text, size);
    free(text);
}

static void respond(int fd, const char *head, const char *body, size_t size) {
    char *start = answer + 256, *end = start; /* the headers come before it, once its length is known */
    int status = 200;
    if (!strncmp(head, "GET /log ", 9)) {
        send_log(fd);
        return;
    }
    if (!strncmp(head, "GET /stats ", 11)) {
        end += sprintf(end, "{\"requests\":%ld,\"customers\":%ld}", requests, customers);
    } else if (strncmp(head, "POST ", 5)) {
        status = 404;
    } else if ((status = status_of_this_one()) == 200) {
        requests++;
        if (!strncmp(head + 5, "/v2/promotion/bulk/enrolAndEarn ", 32)) end = bulk(start, body, size);
        else if (!strncmp(head + 5, "/v2/coupon/issue ", 17)) end = patched(start, COUPON, sizeof COUPON - 1);
        else if (!strncmp(head + 5, "/v3/oauth/token/generate ", 25)) end = stpcpy(start, TOKEN);
        else status = 404;
    }
    char headers[256];
    const char *words = status == 200 ? "OK" : status == 429 ? "Too Many Requests" : "Not Found";
    int length = sprintf(headers,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nX-Cap-RequestId: bench-%ld\r\n"
                         "Content-Length: %zd\r\n\r\n", status, words, requests, end - start);
    memcpy(start - length, headers, length);
    send_whole(fd, start - length, end - start + length);
}

static size_t content_length(const char *head, const char *end) {
    static const char name[] = "\r\ncontent-length:";
    for (const char *line = head; (line = memchr(line, '\r', end - line)); line++)
        if (!strncasecmp(line, name, sizeof name - 1)) return strtoul(line + sizeof name - 1, NULL, 10);
    return 0;
}

/* Reads what has come and answers what is whole. Returns 0 when the connection is over. */
static int attend(int fd, struct connection *c) {
    ssize_t got = read(fd, c->request + c->held, LONGEST_REQUEST - 1 - c->held);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
    c->held += got;
    c->request[c->held] = 0;
    for (char *blank; (blank = memmem(c->request, c->held, "\r\n\r\n", 4));) {
        char *body = blank + 4;
        size_t size = content_length(c->request, body), whole = body - c->request + size;
        if (whole >= LONGEST_REQUEST) return 0;
        if (c->held < whole) break;
        respond(fd, c->request, body, size);
        memmove(c->request, c->request + whole, c->held -= whole);
        c->request[c->held] = 0;
    }
    return c->held < LONGEST_REQUEST - 1;
}

int main(int count, char **arguments) {
    limit = count > 1 ? atol(arguments[1]) : 0;
    window = calloc(limit + 1, sizeof *window);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* a benchmark that is killed leaves nothing behind */
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0), one = 1;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1024)) return perror("server"), 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
    for (struct epoll_event ready[64];;) {
        int n = epoll_wait(poller, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) < 0) continue;
                if (fd >= MOST_CONNECTIONS) {
                    close(fd);
                    continue;
                }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (!connections[fd]) connections[fd] = malloc(sizeof(struct connection));
                connections[fd]->held = 0;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
            } else if (!attend(fd, connections[fd])) {
                close(fd);
            }
        }
    }
}
