# The tests of the options, of the ELF check and of the `weft` command; needs the target
# weft_cmd (preload/launcher.cmake). Included from any CMakeLists.txt of the tests.
include(GoogleTest)
find_package(GTest REQUIRED)

set(launcher_root ${CMAKE_CURRENT_LIST_DIR}/../..)
set(launcher_fixtures ${CMAKE_CURRENT_BINARY_DIR}/launcher_fixtures)

# ---- unit tests ----

function(launcher_unit_test name)
	add_executable(${name} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${name}.cc ${ARGN})
	set_target_properties(${name} PROPERTIES
		C_STANDARD 11 C_EXTENSIONS ON CXX_STANDARD 17 CXX_EXTENSIONS ON)
	target_include_directories(${name} PRIVATE ${launcher_root}/preload)
	target_compile_definitions(${name} PRIVATE _GNU_SOURCE)
	target_compile_options(${name} PRIVATE -Wall -Wextra
		$<$<BOOL:${WEFT_WERROR}>:-Werror>)
	if(WEFT_SANITIZE)
		target_compile_options(${name} PRIVATE -fsanitize=${WEFT_SANITIZE}
			-fno-sanitize-recover=all -fno-omit-frame-pointer)
		target_link_options(${name} PRIVATE -fsanitize=${WEFT_SANITIZE})
	endif()
	target_link_libraries(${name} PRIVATE GTest::gtest GTest::gtest_main)
	gtest_discover_tests(${name} TEST_PREFIX unit. DISCOVERY_MODE PRE_TEST
		PROPERTIES TIMEOUT 60 LABELS unit)
endfunction()

launcher_unit_test(options_test ${launcher_root}/preload/options.c)
launcher_unit_test(elfcheck_test ${launcher_root}/preload/elfcheck.c)

# options.c promises to call nothing: its object, built as for libweft.so, may not need
# any symbol.
add_library(options_freestanding OBJECT ${launcher_root}/preload/options.c)
set_target_properties(options_freestanding PROPERTIES C_STANDARD 11 C_EXTENSIONS ON)
target_compile_options(options_freestanding PRIVATE -O2 -ffreestanding -mgeneral-regs-only
	-fPIC -fvisibility=hidden -Wall -Wextra -Wconversion -Wshadow
	$<$<BOOL:${WEFT_WERROR}>:-Werror>)
add_custom_target(options_freestanding_built ALL DEPENDS options_freestanding)
add_test(NAME unit.Options.ParserNeedsNoSymbolOfAnybody COMMAND sh -c
	"needs=$(${CMAKE_NM} -u \"$1\") && test -z \"$needs\" || { echo \"$needs\"; exit 1; }"
	sh $<TARGET_OBJECTS:options_freestanding>)
set_tests_properties(unit.Options.ParserNeedsNoSymbolOfAnybody PROPERTIES
	TIMEOUT 60 LABELS unit)

# ---- programs that can be served, and programs that cannot ----

file(MAKE_DIRECTORY ${launcher_fixtures})

function(launcher_source name text)
	file(CONFIGURE OUTPUT ${launcher_fixtures}/${name} CONTENT "${text}" @ONLY)
endfunction()

launcher_source(plain.c "int main(void) { return 7; }\n")
launcher_source(empty.c "int fixture_empty;\n")
launcher_source(threads.c [[
#include <pthread.h>
static void *start(void *arg) { return arg; }
int main(void)
{
	pthread_t t;

	return pthread_create(&t, 0, start, 0) != 0 || pthread_join(t, 0) != 0;
}
]])
# Stands in for libweft.so; the environment of the program shows that it was loaded.
launcher_source(preloaded.c [[
#include <stdlib.h>
static void __attribute__((constructor)) loaded(void) { setenv("FIXTURE_LOADED", "1", 1); }
]])
launcher_source(go_section.c [[
__attribute__((section(".go.buildinfo"), used)) static const char info[16] = "build info";
int fixture_go;
]])
launcher_source(go_note.c [[
__attribute__((section(".note.go.buildid"), used, aligned(4)))
static const struct { unsigned name, desc, type; char text[8]; } note =
	{ 4, 4, 4, { 'G', 'o', 0, 0, 'i', 'd', 0, 0 } };
]])
launcher_source(asan.c "void __asan_init(void);\nvoid __asan_init(void) { }\n")
launcher_source(asks_asan.c [[
void __asan_init(void) __attribute__((weak));
int main(void) { return __asan_init != 0; }
]])
launcher_source(dotnet.c [[
#include <string.h>
const char *volatile fixture_host = "libhostfxr.so";
int main(void) { return strlen(fixture_host) == 0; }
]])
launcher_source(calls_fixture.c "int fixture_empty;\nint main(void) { return fixture_empty; }\n")

function(launcher_fixture name)
	cmake_parse_arguments(PARSE_ARGV 1 F "LIBRARY;NOPIE" "OUTPUT" "SOURCES;LINK;OPTIONS")
	list(TRANSFORM F_SOURCES PREPEND ${launcher_fixtures}/)
	if(F_LIBRARY)
		add_library(fixture_${name} SHARED ${F_SOURCES})
		set_target_properties(fixture_${name} PROPERTIES PREFIX "" SUFFIX ""
			LIBRARY_OUTPUT_DIRECTORY ${launcher_fixtures})
	else()
		add_executable(fixture_${name} ${F_SOURCES})
		set_target_properties(fixture_${name} PROPERTIES
			RUNTIME_OUTPUT_DIRECTORY ${launcher_fixtures})
	endif()
	if(NOT F_OUTPUT)
		set(F_OUTPUT ${name})
	endif()
	set_target_properties(fixture_${name} PROPERTIES OUTPUT_NAME ${F_OUTPUT})
	target_link_libraries(fixture_${name} PRIVATE ${F_LINK})
	target_link_options(fixture_${name} PRIVATE -Wl,--no-as-needed ${F_OPTIONS})
	set_property(GLOBAL APPEND PROPERTY launcher_fixture_targets fixture_${name})
endfunction()

find_package(Threads REQUIRED)
launcher_fixture(preloaded LIBRARY SOURCES preloaded.c)
launcher_fixture(plain SOURCES plain.c)
launcher_fixture(threads SOURCES threads.c LINK Threads::Threads)
launcher_fixture(threads_gnu_hash SOURCES threads.c LINK Threads::Threads
	OPTIONS -Wl,--hash-style=gnu -Wl,--strip-all)
launcher_fixture(threads_sysv_hash SOURCES threads.c LINK Threads::Threads
	OPTIONS -Wl,--hash-style=sysv)
launcher_fixture(threads_now SOURCES threads.c LINK Threads::Threads
	OPTIONS -Wl,-z,now -Wl,--hash-style=gnu)
launcher_fixture(threads_library LIBRARY SOURCES threads.c)
launcher_fixture(by_library SOURCES plain.c LINK fixture_threads_library)
launcher_fixture(static SOURCES plain.c OPTIONS -static)
launcher_fixture(static_pie SOURCES plain.c OPTIONS -static-pie)
launcher_fixture(musl SOURCES plain.c OPTIONS -Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1)
launcher_fixture(no_loader SOURCES plain.c
	OPTIONS -Wl,--dynamic-linker=/nonexistent/ld-linux-x86-64.so.2)
launcher_fixture(go SOURCES plain.c go_section.c)
launcher_fixture(go_stripped SOURCES plain.c go_note.c)
launcher_fixture(go_library LIBRARY SOURCES go_section.c)
launcher_fixture(by_go_library SOURCES plain.c LINK fixture_go_library)
launcher_fixture(jli LIBRARY OUTPUT libjli.so SOURCES empty.c)
launcher_fixture(jvm SOURCES calls_fixture.c LINK fixture_jli)
launcher_fixture(tsan LIBRARY OUTPUT libtsan.so.2 SOURCES empty.c)
launcher_fixture(by_tsan SOURCES calls_fixture.c LINK fixture_tsan)
launcher_fixture(asan SOURCES plain.c asan.c OPTIONS -Wl,--export-dynamic)
launcher_fixture(asks_asan SOURCES asks_asan.c)
launcher_fixture(dotnet SOURCES dotnet.c)
launcher_fixture(mono LIBRARY OUTPUT libmonosgen-2.0.so.1 SOURCES empty.c)
launcher_fixture(by_mono SOURCES calls_fixture.c LINK fixture_mono)
target_compile_options(fixture_static_pie PRIVATE -fPIE)
get_property(launcher_fixture_targets GLOBAL PROPERTY launcher_fixture_targets)

# ---- the command ----

add_executable(launcher_test ${launcher_root}/tests/calls/launcher_test.cc)
set_target_properties(launcher_test PROPERTIES CXX_STANDARD 17 CXX_EXTENSIONS ON)
target_compile_options(launcher_test PRIVATE -Wall -Wextra $<$<BOOL:${WEFT_WERROR}>:-Werror>)
target_compile_definitions(launcher_test PRIVATE
	_GNU_SOURCE
	WEFT_TEST_COMMAND="$<TARGET_FILE:weft_cmd>"
	WEFT_TEST_FIXTURES="${launcher_fixtures}"
	WEFT_TEST_MAN="${PROJECT_BINARY_DIR}/weft.1")
target_link_libraries(launcher_test PRIVATE GTest::gtest GTest::gtest_main)
foreach(target elfcheck_test launcher_test)
	add_dependencies(${target} weft_cmd weft_man ${launcher_fixture_targets})
endforeach()
target_compile_definitions(elfcheck_test PRIVATE WEFT_TEST_FIXTURES="${launcher_fixtures}")
gtest_discover_tests(launcher_test TEST_PREFIX calls. DISCOVERY_MODE PRE_TEST
	PROPERTIES TIMEOUT 60 LABELS calls)
