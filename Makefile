# make          builds build/cpu-bf16/ and build/cpu-fp32/ and the launcher ./kintoun
# make run      the main job: data, training, pictures          make test   everything that must hold
# make bench    the benchmark programs                          make tidy   layers, limits, banned functions
# make DEBUG=1  with the address and undefined-behaviour sanitizers, in build/debug-*
# PRECISION=fp32|bf16 restricts what is built.

MARCH ?= native
CC = mpicc
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1

BACKEND := cpu
PRECISIONS := $(if $(PRECISION),$(PRECISION),bf16 fp32)
PREFIX := build/$(if $(DEBUG),debug-)$(BACKEND)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror
OPTIMIZE := $(if $(DEBUG),-O1 -g -fsanitize=address$(comma)undefined -fno-omit-frame-pointer,-O3 -g1)
comma := ,
OPTIMIZE := $(if $(DEBUG),-O1 -g -fsanitize=address$(comma)undefined -fno-omit-frame-pointer,-O3 -g1)
CFLAGS := -std=c11 -D_POSIX_C_SOURCE=200809L -I. $(WARNINGS) $(OPTIMIZE) -march=$(MARCH) \
          -mprefer-vector-width=512 -ffp-contract=fast -fno-math-errno -fopenmp -MMD -MP
LIBS := -lyaml -lzstd -ljansson -lpng -lz -lxxhash -ldnnl -lpthread -lm

SOURCES := $(shell find base parallel model data checkpoint train -name '*.c' ! -path '*/cuda/*' | sort)
LIBRARY := $(filter-out train/main.c,$(SOURCES))
TESTS := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
BENCHES := $(patsubst bench/%.c,%,$(wildcard bench/*.c))
DEFINES_bf16 := -DREAL_BF16
DEFINES_fp32 :=

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all run test bench tidy format golden clean tests

all: $(foreach p,$(PRECISIONS),$(PREFIX)-$(p)/kintoun) kintoun

# One set of rules per precision.
define rules
$(PREFIX)-$(1)/%.o: %.c
	@mkdir -p $$(dir $$@)
	$$(CC) $$(CFLAGS) $$(DEFINES_$(1)) -c $$< -o $$@
$(PREFIX)-$(1)/libkintoun.a: $(LIBRARY:%.c=$(PREFIX)-$(1)/%.o)
	@rm -f $$@
	@ar rcs $$@ $$^
$(PREFIX)-$(1)/kintoun: $(PREFIX)-$(1)/train/main.o $(PREFIX)-$(1)/libkintoun.a
	$$(CC) $$(OPTIMIZE) -fopenmp $$^ $$(LIBS) -o $$@
$(PREFIX)-$(1)/tests/test_%: $(PREFIX)-$(1)/tests/test_%.o $(PREFIX)-$(1)/tests/check.o $(PREFIX)-$(1)/libkintoun.a
	$$(CC) $$(OPTIMIZE) -fopenmp $$^ $$(LIBS) -lcmocka -o $$@
$(PREFIX)-$(1)/bench/%: $(PREFIX)-$(1)/bench/%.o $(PREFIX)-$(1)/libkintoun.a
	$$(CC) $$(OPTIMIZE) -fopenmp $$^ $$(LIBS) -o $$@
endef
$(foreach p,bf16 fp32,$(eval $(call rules,$(p))))

# The small program that picks the build that fits this machine and the settings.
kintoun: launch/kintoun.c
	$(CC) -std=c11 -D_POSIX_C_SOURCE=200809L -I. $(WARNINGS) -O2 $< -lyaml -o $@

tests: $(foreach p,$(PRECISIONS),$(TESTS:%=$(PREFIX)-$(p)/tests/%))
bench: $(foreach p,$(PRECISIONS),$(BENCHES:%=$(PREFIX)-$(p)/bench/%))

test: all tests
	@sh tests/run.sh

tidy:
	@sh tests/tidy.sh

format:
	@clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

clean:
	rm -rf build kintoun

-include $(shell find build -name '*.d' 2>/dev/null)
