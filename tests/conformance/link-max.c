/* Tells how many links a file may have where glibc does not know: as many as ext4 allows (EXT4_LINK_MAX), on which the
 * suites lie. To be preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

long pathconf(const char *path, int name) {
  if (name == _PC_LINK_MAX) return 65000;
  long (*next)(const char *, int) = (long (*)(const char *, int))dlsym(RTLD_NEXT, "pathconf");
  return next(path, name);
}
