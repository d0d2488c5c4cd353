package btrfs

import (
	"fmt"
	"os"

	subvol "github.com/droverhq/drover/internal/btrfs"
)

// count switches quotas on where nobody else can have a say in it: on devices of the pool's
// own that have no pool yet.
func (p *Pool) count(path string) error {
	if p.disk == nil {
		return nil
	}
	names, err := os.ReadDir(path)
	if err != nil || len(names) > 0 {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode, _, err := subvol.Quotas(dir)
	if err != nil || mode != subvol.QuotaNone {
		return err
	}
	return subvol.EnableQuotas(dir)
}

// lies says on which devices, if they are the pool's own.
func (p *Pool) lies() string {
	if p.disk == nil {
		return ""
	}
	note := "; " + p.disk.Note()
	if len(p.disk.Devices) > 1 {
		note += fmt.Sprintf(": data %s, metadata %s", subvol.Profile(p.disk.ID, "data"), subvol.Profile(p.disk.ID, "metadata"))
	}
	return note
}
