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
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/profiles"
)

// The default places of the files. A file in its default place is optional. A missing file in another place is an
// error, because the user has named it.
const (
	DefaultConfig   = "/etc/drover/drover.yaml"
	DefaultProfiles = "/etc/drover/profiles.yaml"
)

// Backends returns the backends of this program, the preferred ones first.
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
