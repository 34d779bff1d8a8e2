/*
 * Writes until it is told to end: lines through one handle that appends, and two
 * pages of a shared mapping, the second after the first is on the disk.
 *
 *   writer DIR      exit code 0 if nothing has failed
 *   writer --try    says what its library counts
 */
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (64 * 4096)

long tick(long);

static volatile sig_atomic_t ended;
static void end(int signal) { ended = signal; }

static int in(const char *dir, const char *name, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, flags | O_CREAT, 0644);
    if (fd < 0)
        err(1, "%s", path);
    return fd;
}

int main(int count, char **arguments) {
    if (count != 2)
        errx(2, "usage: writer DIR | --try");
    if (strcmp(arguments[1], "--try") == 0)
        return printf("%ld\n", tick(41)) < 0;
    int log = in(arguments[1], "log", O_WRONLY | O_APPEND);
    int file = in(arguments[1], "mapped", O_RDWR);
    if (ftruncate(file, SIZE) != 0)
        err(1, "ftruncate");
    char *mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        err(1, "mmap");
    signal(SIGTERM, end);
    for (long n = tick(0); !ended; n = tick(n)) {
        char line[64];
        int length = snprintf(line, sizeof line, "line %ld of the log\n", n);
        if (write(log, line, length) != length)
            err(1, "write");
        memcpy(mapped, &n, sizeof n);
        if (msync(mapped, SIZE, MS_SYNC) != 0)
            err(1, "msync");
        memcpy(mapped + SIZE - 4096, &n, sizeof n);
    }
    return 0;
}
