//go:build lab

package lvm

import (
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/internal/run"
)

func TestSuite(t *testing.T) { suite(t, "thin", nil) }

// TestSuiteEncrypted runs the suite with every dataset encrypted.
func TestSuiteEncrypted(t *testing.T) { suite(t, "luks", backendtest.NewKeys()) }

// I3: an operation of which any system call fails damages nothing in the pool. Only the calls for the records fail,
// because each command of LVM takes about a second.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCalls(t, "thin", func(t *testing.T) (backends.Kind, backends.Config) {
		return New(&run.System{}), place(t, "lvm-first")
	})
}

func suite(t *testing.T, name string, keys backends.Keys) {
	t.Helper()
	taken := map[string]bool{}
	backendtest.Run(t, name, func(t *testing.T) (backends.Kind, backends.Config) {
		disk := "lvm-first"
		if taken[t.Name()] {
			disk = "lvm-second" // a case with two pools
		}
		taken[t.Name()] = true
		cfg := place(t, disk)
		cfg.Keys = keys
		return New(&run.System{}), cfg
	})
}
