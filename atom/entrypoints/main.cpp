#include <cstdio>

int main() {
  std::puts("atom " ATOM_VERSION);
  return 0;
}
