# tenantmig: PGXS build. PG_CONFIG=/path/to/pg_config picks the server.

MODULE_big = tenantmig
EXTENSION = tenantmig

EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" tenantmig.control)
SQL_PARTS = $(sort $(wildcard sql/parts/*.sql))

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
BITCODE = $(OBJS:.o=.bc)
SRC_HEADERS = $(wildcard src/*.h src/*/*.h)

DATA = $(wildcard sql/tenantmig--*--*.sql)
DATA_built = sql/tenantmig--$(EXTVERSION).sql

# PostgreSQL's own idioms (fmgr signatures, int against Size, {0}) need the
# three exceptions.
PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

# STOP_POINTS=1 compiles in the places where the crash tests halt a worker.
ifeq ($(STOP_POINTS),1)
PG_CPPFLAGS += -DTENANTMIG_STOP_POINTS
endif

# Expected output of both kinds lies in expected/ (test/expected points there),
# so a regression test and an isolation spec must not share a name.
REGRESS_NAMES = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
ifneq ($(REGRESS_NAMES),)
REGRESS = $(filter install,$(REGRESS_NAMES)) $(filter-out install,$(REGRESS_NAMES))
endif
REGRESS_OPTS = --inputdir=test

ISOLATION_NAMES = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ifneq ($(ISOLATION_NAMES),)
ISOLATION = $(ISOLATION_NAMES)
endif
ISOLATION_OPTS = --inputdir=test --load-extension=tenantmig

EXTRA_CLEAN = .build-flags

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

# Without a server to build against, the targets that fetch one still work.
ifneq ($(PGXS),)
include $(PGXS)

# What the objects were built with and for; a change rebuilds them all.
BUILD_FLAGS := $(shell $(PG_CONFIG) --version) $(CC) $(CPPFLAGS) $(CFLAGS)
$(shell echo '$(BUILD_FLAGS)' | cmp -s - .build-flags || echo '$(BUILD_FLAGS)' > .build-flags)

# Few and small headers: every object depends on all of them.
$(OBJS) $(BITCODE): $(SRC_HEADERS) .build-flags

# The folder is a prerequisite so that a part taken away is noticed.
$(DATA_built): $(SQL_PARTS) sql/parts tenantmig.control
	cat $(SQL_PARTS) > $@

.DELETE_ON_ERROR:
else
all install uninstall installcheck clean:
	@echo "no server development files: run script/setup, or give PG_CONFIG=" >&2; exit 1
endif

export PG_CONFIG

demo:
	@script/setup && script/build --install && demo/run

test:
	@script/setup && test/run

lint:
	@script/setup && script/lint

bench:
	@script/setup && bench/run

format:
	clang-format -i $(wildcard src/*.[ch] src/*/*.[ch])

.PHONY: all install uninstall installcheck clean demo test lint bench format
