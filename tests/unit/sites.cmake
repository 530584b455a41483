# sites_test: the site module alone, with an entry of its own instead of thunk.S.
#
# Needs interpose/sites.cmake and GTest. The sources are compiled again, because
# the test stands between sites.c and the kernel.

find_package(GTest REQUIRED)
if(NOT WEFT_SITE_TABLES)
	message(FATAL_ERROR "sites_test needs the tables that interpose/sites.cmake names")
endif()
set(_tests ${CMAKE_CURRENT_LIST_DIR}/..)
get_filename_component(_root ${_tests}/.. ABSOLUTE)

set_source_files_properties(${WEFT_SITE_TABLES} PROPERTIES GENERATED ON)
set_source_files_properties(${_root}/interpose/sites.c PROPERTIES COMPILE_OPTIONS
	"-std=gnu11;-ffreestanding;-mgeneral-regs-only;-fno-stack-protector;-include;${_tests}/support/sites_fault.h")
# A library, as weft is one: thunks must lie within 2 GiB of libc.
add_library(sites_under_test SHARED ${_root}/interpose/sites.c
	${_root}/interpose/thunk_area.S ${WEFT_SITE_TABLES}
	${_tests}/support/sites_entry.S)
add_dependencies(sites_under_test weft_site_tables)
target_compile_options(sites_under_test PRIVATE -Wall -Wextra)
target_include_directories(sites_under_test PRIVATE ${_root})
target_link_options(sites_under_test PRIVATE -Wl,-z,now)

add_library(sites_tricky MODULE ${_tests}/support/sites_tricky.S)
set_target_properties(sites_tricky PROPERTIES LINKER_LANGUAGE C)
target_link_options(sites_tricky PRIVATE -nostdlib -Wl,--build-id -Wl,--eh-frame-hdr
	-Wl,-soname,libsites_tricky.so)

add_executable(sites_test ${_tests}/unit/sites_test.cc)
set_target_properties(sites_test PROPERTIES ENABLE_EXPORTS ON)
add_dependencies(sites_test weft_sites sites_tricky)
target_compile_features(sites_test PRIVATE cxx_std_17)
# -fPIC: the library's variables are used where they are, not copied
target_compile_options(sites_test PRIVATE -Wall -Wextra -fPIC)
target_compile_definitions(sites_test PRIVATE
	WEFT_SITES_PLUGIN="$<TARGET_FILE:weft_sites>"
	SITES_TRICKY="$<TARGET_FILE:sites_tricky>"
	WEFT_LIBC="${WEFT_LIBC}" WEFT_LDSO="${WEFT_LDSO}")
target_include_directories(sites_test PRIVATE ${_root})
target_link_options(sites_test PRIVATE -Wl,-z,now)
target_link_libraries(sites_test PRIVATE sites_under_test GTest::gtest_main ${CMAKE_DL_LIBS} pthread)
add_test(NAME sites_test COMMAND sites_test)
set_tests_properties(sites_test PROPERTIES TIMEOUT 120)
