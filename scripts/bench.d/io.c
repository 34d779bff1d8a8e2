/* The file operations that scripts/bench times where a shell tool would cost more than the operation.
 * Prints the seconds one run took. Usage:
 *   io create DIR COUNT      COUNT files of 100 to 4,195 bytes, 1,000 to a directory (open, write, close)
 *   io remove DIR COUNT      removes them and their directories
 *   io seqwrite FILE MIB     writes MIB mebibytes, 1 MiB a call
 *   io seqread FILE MIB      reads the file, 1 MiB a call
 *   io randwrite FILE COUNT  COUNT writes of 4 KiB at random places of the file
 *   io randread FILE COUNT   COUNT reads of 4 KiB at random places of the file
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MIB = 1 << 20, PER_DIRECTORY = 1000 };

static char buffer[MIB];

static void die(const char *what)
{
	fprintf(stderr, "io: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t next_random(void)
{
	static uint64_t x = 88172645463325252u;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void create(const char *dir, long count)
{
	char path[4096];
	for (long i = 0; i < count; i++) {
		if (i % PER_DIRECTORY == 0) {
			snprintf(path, sizeof path, "%s/d%ld", dir, i / PER_DIRECTORY);
			if (mkdir(path, 0755) != 0)
				die(path);
		}
		snprintf(path, sizeof path, "%s/d%ld/f%ld", dir, i / PER_DIRECTORY, i);
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		ssize_t size = 100 + (ssize_t)(next_random() % 4096);
		if (fd < 0 || write(fd, buffer, (size_t)size) != size || close(fd) != 0)
			die(path);
	}
}

static void remove_all(const char *dir, long count)
{
	char path[4096];
	for (long i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/d%ld/f%ld", dir, i / PER_DIRECTORY, i);
		if (unlink(path) != 0)
			die(path);
	}
	for (long i = 0; i < count; i += PER_DIRECTORY) {
		snprintf(path, sizeof path, "%s/d%ld", dir, i / PER_DIRECTORY);
		if (rmdir(path) != 0)
			die(path);
	}
}

static void sequential(const char *path, long mib, int writing)
{
	int fd = writing ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)
			 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	for (long i = 0; i < mib; i++) {
		ssize_t n = writing ? write(fd, buffer, MIB) : read(fd, buffer, MIB);
		if (n != MIB)
			die(path);
	}
	if (close(fd) != 0)
		die(path);
}

static void scattered(const char *path, long count, int writing)
{
	struct stat st;
	int fd = open(path, (writing ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0)
		die(path);
	uint64_t blocks = (uint64_t)st.st_size / BLOCK;
	for (long i = 0; i < count; i++) {
		off_t at = (off_t)(next_random() % blocks) * BLOCK;
		ssize_t n = writing ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at);
		if (n != BLOCK)
			die(path);
	}
	if (close(fd) != 0)
		die(path);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: io create|remove|seqwrite|seqread|randwrite|randread PATH N\n");
		return 2;
	}
	const char *what = argv[1], *path = argv[2];
	long n = atol(argv[3]);
	for (size_t i = 0; i < sizeof buffer; i++)
		buffer[i] = (char)next_random();

	double start = now();
	if (strcmp(what, "create") == 0)
		create(path, n);
	else if (strcmp(what, "remove") == 0)
		remove_all(path, n);
	else if (strcmp(what, "seqwrite") == 0)
		sequential(path, n, 1);
	else if (strcmp(what, "seqread") == 0)
		sequential(path, n, 0);
	else if (strcmp(what, "randwrite") == 0)
		scattered(path, n, 1);
	else if (strcmp(what, "randread") == 0)
		scattered(path, n, 0);
	else
		return 2;
	printf("%.6f\n", now() - start);
	return 0;
}
