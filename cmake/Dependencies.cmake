# Third parties, all from distribution packages and all linked statically (header-only, or the .a file).
# libcurl is the exception: it is opened at run time, only when a model is downloaded.
find_package(Threads REQUIRED)

function(atom_header_package target header)
  find_path(${target}_DIR ${header} REQUIRED)
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_DIR})
endfunction()

function(atom_static_package target header archive)
  atom_header_package(${target} ${header})
  find_library(${target}_ARCHIVE NAMES ${archive} REQUIRED)
  target_link_libraries(${target} INTERFACE ${${target}_ARCHIVE})
endfunction()

atom_header_package(fmt_headers fmt/core.h)
atom_header_package(boost_headers boost/json.hpp)
# Asio and JSON are compiled once (core/boost_json.cpp, entrypoints/http/boost_net.cpp), not per user.
target_compile_definitions(boost_headers INTERFACE BOOST_ASIO_SEPARATE_COMPILATION
  BOOST_ASIO_NO_DEPRECATED BOOST_JSON_NO_LIB)
atom_header_package(xxhash_headers xxhash.h)
atom_header_package(curl_headers curl/curl.h)
atom_static_package(pcre2_static pcre2.h libpcre2-8.a)
atom_static_package(zlib_static zlib.h libz.a)
atom_static_package(utf8proc_static utf8proc.h libutf8proc.a)
target_compile_definitions(pcre2_static INTERFACE PCRE2_STATIC)
target_compile_definitions(utf8proc_static INTERFACE UTF8PROC_STATIC)
