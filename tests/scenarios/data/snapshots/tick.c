/* The library that the writer has mapped. */
long tick(long n) { return n + 1; }
