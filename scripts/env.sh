# To be sourced before cargo is called: where it is, and what the build of the gRPC C-core needs.

# Where rustup puts cargo, for shells that have not read the profile.
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"

# make's own flags and variables are not for the makes that the build starts.
unset MAKEFLAGS MFLAGS MAKELEVEL

# CMake 4 refuses what asks for a CMake older than 3.5, as parts of the C-core do. Others ignore it.
export CMAKE_POLICY_VERSION_MINIMUM="${CMAKE_POLICY_VERSION_MINIMUM:-3.5}"

# From GCC 15 on, other headers no longer bring <cstdint> along. CXXFLAGS stays as it is for all other
# compilers: whenever it changes, cargo compiles the C-core anew.
gcc_major=$(echo __GNUC__ | ${CXX:-c++} -x c++ -E -P - 2>/dev/null) || gcc_major=0
if [ "${gcc_major:-0}" -ge 15 ]; then
    export CXXFLAGS="${CXXFLAGS:+$CXXFLAGS }-include cstdint"
fi
