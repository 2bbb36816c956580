# Cross-compiles for 64-bit ARM on Debian and Ubuntu (g++-aarch64-linux-gnu), and runs what was built in qemu-aarch64 (qemu-user):
#   cmake -DCMAKE_TOOLCHAIN_FILE=csrc/aarch64.cmake ...
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
