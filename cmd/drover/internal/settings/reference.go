package settings

import (
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/reference"
	"github.com/droverhq/drover/profiles"
)

// ReferencePages returns the reference pages of the configuration files.
func ReferencePages() []reference.Page {
	return []reference.Page{
		{
			File:   "profiles.yaml",
			Schema: profiles.Schema,
			About: "`/etc/drover/profiles.yaml` defines the profiles that volumes can have. Without the " +
				"file, Drover uses the built-in profiles bronze, silver and gold. `drover config check " +
				"FILE` checks a file.",
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
