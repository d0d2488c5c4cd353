# Drover. `make` alone says what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The tag and commit, or "dev" where there is no git or no repository.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export PREFIX DESTDIR

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/drover, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/drover ./cmd/drover

images: build ## images drover and drover-consul for docker-compose.yml, in Docker's engine (root)
	scripts/images.sh bin/drover

test: ## install what is missing and run all tests (root; about twenty minutes)
	scripts/test.sh

test-long: ## the same with everything that takes long: race detector, more rounds, fuzzing
	scripts/test.sh long

lab: ## tests that take another kernel, in a machine under QEMU; LAB_ONLY, LAB_RUN choose (docs/internals/testing.md)
	scripts/deps.sh test
	LAB_LONG=1 go test -count=1 -timeout 40m -v $(if $(LAB_ONLY),-run '^TestLab$$') ./test/lab

lab-long: ## the same with what takes longest; make test-long runs it
	scripts/deps.sh test
	DROVER_TEST_LONG=1 go test -count=1 -timeout 2h -v $(if $(LAB_ONLY),-run '^TestLab$$') ./test/lab

lab-short: ## those of them that make test runs
	scripts/deps.sh test
	go test -count=1 -timeout 20m -v ./test/lab

chaos: ## faults on a whole cluster: CHAOS_SECONDS, CHAOS_SEED (root; docs/internals/testing.md says more)
	scripts/deps.sh test
	go test -count=1 -timeout 4h -v -run '^TestChaos$$' ./test/chaos

bench: ## print the figures, as ratios to Docker's own local driver (root)
	scripts/deps.sh test
	go test -count=1 -p 1 -timeout 2h -run '^$$' -bench . -benchtime 1x ./test/bench

lint: ## check the code, the scripts and the API
	scripts/lint.sh

vuln: ## look for known holes in what we import (asks the Go vulnerability database)
	"$$(scripts/tools.sh govulncheck)" ./...

fuzz-short: ## every fuzz target for some seconds
	scripts/fuzz.sh 5s

install: ## binary, systemd units, man pages, completion, JSON schemas (root; PREFIX, DESTDIR)
	scripts/install.sh

uninstall: ## remove them and the data; refused while there are volumes; KEEP_DATA=1 leaves the data
	KEEP_WORD='KEEP_DATA=1' scripts/uninstall.sh $(if $(KEEP_DATA),--keep-data)

demo: ## play the story of the README with a real database (root)
	scripts/demo.sh

demo-clean: ## remove whatever the demo left
	scripts/demo-clean.sh

clean: ## remove what was built; the cache of images and tools stays (~/.cache/drover)
	rm -rf bin

.PHONY: help build images test test-long lab lab-long lab-short chaos bench lint vuln fuzz-short install uninstall demo demo-clean clean
