//go:build lab

package lvm

import (
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/run"
)

func TestSuite(t *testing.T) {
	taken := map[string]bool{}
	backendtest.Run(t, "thin", func(t *testing.T) (backends.Kind, backends.Config) {
		disk := "lvm-first"
		if taken[t.Name()] {
			disk = "lvm-second" // a case of two pools
		}
		taken[t.Name()] = true
		return New(&run.System{}), place(t, disk)
	})
}
