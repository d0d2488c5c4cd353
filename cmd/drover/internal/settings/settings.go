// Package settings reads the configuration and the profiles of this host without a server, and has the commands of
// drover profile. ReferencePages are the man pages of the keys. The package keeps no state.
package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/backends/lvm"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/reference"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/profiles"
)

// The default places of the files. A file in its default place is optional. A missing file in another place is an
// error, because the user has named it.
const (
	DefaultConfig   = "/etc/drover/drover.yaml"
	DefaultProfiles = "/etc/drover/profiles.yaml"
)

// Backends returns the backends of this program, the preferred ones first. A new one is also a KIND of package cli.
func Backends() *backends.Registry {
	runner := run.System{}
	return backends.NewRegistry(loop.New(&runner), dir.Backend{}, btrfs.New(), nfs.Backend{},
		zfs.New(&runner, clock.System{}), lvm.New(&runner))
}

// LoadProfiles reads profiles.yaml. If the default file does not exist, it returns the built-in set.
func LoadProfiles(file string) (*profiles.Set, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && file == DefaultProfiles {
		return profiles.Parse("built-in profiles.yaml", drover.Profiles, ProfileCheck(Backends()))
	}
	if err != nil {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	return profiles.Parse(file, b, ProfileCheck(Backends()))
}

// LoadConfig reads drover.yaml. A missing file in the default place is an empty configuration.
func LoadConfig(file string) (config.Config, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && file == DefaultConfig {
		return config.Config{}, nil
	}
	if err != nil {
		return config.Config{}, fmt.Errorf("configuration: %w", err)
	}
	return config.Parse(filepath.Clean(file), b, func(backend string) error {
		_, err := Backends().Kind(backend)
		return err
	})
}

// ReferencePages returns the reference pages of the configuration files.
func ReferencePages() []reference.Page {
	return []reference.Page{
		{
			File:   "profiles.yaml",
			Schema: profiles.Schema,
			About: "`/etc/drover/profiles.yaml` defines the profiles that volumes can have. Without the " +
				"file, Drover uses the built-in profiles bronze, silver and gold. `drover config check " +
				"--profiles FILE` checks a file.",
			Notes: []string{
				"Drover reads the file at its start and at `systemctl reload drover`. A file with a " +
					"mistake changes nothing. A reload applies all keys to new volumes. **Existing " +
					"volumes keep the profile that they were made with.** `drover volume set-profile NAME " +
					"PROFILE` gives a volume another profile, or the newest revision of its profile. " +
					"*Changes live* says which keys this changes for a volume, also while the volume is " +
					"in use.",
			},
		},
		{
			File:   "drover.yaml",
			Schema: config.Schema,
			About: "`/etc/drover/drover.yaml` has the settings of a host: `drover serve` and `drover agent` " +
				"read it. `drover control` reads `/etc/drover/control.yaml`, which has the same keys. " +
				"Without the file, a host has the default pool and a store in a file.",
			Notes: []string{
				"Drover reads the file only at its start: `systemctl restart drover` applies a " +
					"change. No container stops for this. With a mistake in the file, Drover does not " +
					"start: `drover config check FILE` finds it before. After a change of pools, run " +
					"`make install` again, so that the unit waits for the new disks.",
			},
		},
	}
}
