# CMake toolchain: Zig's Clang and libc++ against an old glibc. packaging/wheels.py sets VOXFORMER_ZIG,
# the compiler, and VOXFORMER_ARCH, x86_64 or aarch64; the code is for any CPU of that architecture.
if(NOT "$ENV{VOXFORMER_ARCH}" STREQUAL "${CMAKE_HOST_SYSTEM_PROCESSOR}")
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR $ENV{VOXFORMER_ARCH})
endif()

# 2.17 is the glibc of manylinux2014.
set(CMAKE_CXX_COMPILER $ENV{VOXFORMER_ZIG} c++ -target $ENV{VOXFORMER_ARCH}-linux-gnu.2.17)
set(CMAKE_CXX_FLAGS_RELEASE_INIT "-g0")
# Zig compiles its libc++ once for each set of options: no other for CMake's trials, nor for the
# link-time optimisation that pybind11 would switch on for the bindings alone.
set(CMAKE_TRY_COMPILE_CONFIGURATION Release)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)

# The system's binary tools know one architecture, and Zig's are subcommands, for which CMake has rules
# in place of variables. Nothing is stripped: -s keeps the linker from writing symbols.
set(CMAKE_CXX_ARCHIVE_CREATE "$ENV{VOXFORMER_ZIG} ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_APPEND "$ENV{VOXFORMER_ZIG} ar q <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "$ENV{VOXFORMER_ZIG} ranlib <TARGET>")
set(CMAKE_STRIP "" CACHE FILEPATH "")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-s")
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-s")
