//go:build lab

package lvm

import (
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/run"
)

func TestSuite(t *testing.T) { suite(t, "thin", nil) }

// The suite with every dataset encrypted.
func TestSuiteEncrypted(t *testing.T) { suite(t, "luks", backendtest.NewKeys()) }

func suite(t *testing.T, name string, keys backends.Keys) {
	t.Helper()
	taken := map[string]bool{}
	backendtest.Run(t, name, func(t *testing.T) (backends.Kind, backends.Config) {
		disk := "lvm-first"
		if taken[t.Name()] {
			disk = "lvm-second" // a case of two pools
		}
		taken[t.Name()] = true
		cfg := place(t, disk)
		cfg.Keys = keys
		return New(&run.System{}), cfg
	})
}
