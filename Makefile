# make          builds build/cpu-bf16/ and build/cpu-fp32/ and the launcher ./kintoun
# make run      the main job: data, training, pictures      make test    everything that must hold
# make bench    the benchmark programs                      make tidy    layers, limits, bans
# make golden   runs the generators of tests/golden again (PYTHON with PyTorch)
# DEBUG=1 builds with the address and undefined-behaviour sanitizers, in build/debug-*;
# PRECISION=fp32|bf16 restricts what is built. sh launch/setup installs what is missing.

MARCH ?= native
PYTHON ?= python3
CC = mpicc
MAKEFLAGS += -j$(shell nproc)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
CFLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L -I. $(WARNINGS) -march=$(MARCH) \
          -mprefer-vector-width=512 -ffp-contract=fast -fno-math-errno -fopenmp -MMD -MP
LIBS := -lyaml -lzstd -ljansson -lpng -lz -lxxhash -ldnnl -lpthread -lm
FAST := -O3 -g1
SAFE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

FOLDERS := base parallel model data checkpoint train
SOURCES := $(shell find $(FOLDERS) -name '*.c' ! -path '*/cuda/*' | sort)
LIBRARY := $(filter-out train/main.c,$(SOURCES))
TESTS := $(wildcard tests/test_*.c)
NO_FP32 := $(shell grep -l '^// precision:' $(TESTS) /dev/null | \
             xargs -r grep -L 'precision:.*fp32')
TESTS_fp32 := $(filter-out $(NO_FP32),$(TESTS))
TESTS_bf16 := $(shell grep -l '^// precision:.*bf16' $(TESTS) /dev/null)
TESTS_safe := $(filter-out $(shell grep -l '^// sanitize: no' $(TESTS) /dev/null),$(TESTS_fp32))
BENCHES := $(patsubst %.c,%,$(wildcard bench/*.c))

PRECISIONS := $(or $(PRECISION),bf16 fp32)
BUILDS := $(PRECISIONS:%=build/$(if $(DEBUG),debug-)cpu-%)

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all run test tests tests-safe bench tidy format golden clean

all: $(BUILDS:%=%/kintoun) kintoun

# $(1): folder, $(2): how to optimise, $(3): definitions.
define rules
build/$(1)/%.o: %.c Makefile
	@mkdir -p $$(@D)
	@echo "cc $$@"
	@$$(CC) $$(CFLAGS) $(2) $(3) -c $$< -o $$@
build/$(1)/libkintoun.a: $(LIBRARY:%.c=build/$(1)/%.o)
	@rm -f $$@
	@ar rcs $$@ $$^
build/$(1)/kintoun: build/$(1)/train/main.o build/$(1)/libkintoun.a
	$$(CC) $(2) -fopenmp $$^ $$(LIBS) -o $$@
build/$(1)/tests/test_%: build/$(1)/tests/test_%.o build/$(1)/tests/check.o build/$(1)/libkintoun.a
	@$$(CC) $(2) -fopenmp $$^ $$(LIBS) -lcmocka -o $$@
build/$(1)/bench/%: build/$(1)/bench/%.o build/$(1)/libkintoun.a
	@$$(CC) $(2) -fopenmp $$^ $$(LIBS) -o $$@
endef
$(eval $(call rules,cpu-fp32,$(FAST),))
$(eval $(call rules,cpu-bf16,$(FAST),-DREAL_BF16))
$(eval $(call rules,debug-cpu-fp32,$(SAFE),))
$(eval $(call rules,debug-cpu-bf16,$(SAFE),-DREAL_BF16))

# The small program that picks the build that fits this machine and the settings.
LAUNCHER := $(addprefix build/cpu-fp32/,launch/kintoun.o base/settings.o base/setting_value.o \
                                        base/error.o base/die.o)
kintoun: $(LAUNCHER)
	@$(CC) $^ -lyaml -o $@

tests: $(foreach p,$(PRECISIONS),$(TESTS_$(p):%.c=build/$(if $(DEBUG),debug-)cpu-$(p)/%))
tests-safe: $(TESTS_safe:%.c=build/debug-cpu-fp32/%) build/debug-cpu-fp32/kintoun
bench: $(foreach b,$(BUILDS),$(BENCHES:%=$(b)/%))

run: all
	@sh launch/demo

test: all tests tests-safe bench
	@sh tests/run.sh

tidy:
	@sh tests/tidy.sh

format:
	@clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

golden:
	@for script in tests/golden/*.py; do echo "$$script" && $(PYTHON) "$$script" || exit 1; done

clean:
	rm -rf build kintoun

-include $(shell find build -name '*.d' 2>/dev/null)
