package btrfs

import (
	"fmt"
	"os"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// count switches quotas on where that is the pool's own decision: on devices of its own that have no pool yet.
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
	mode, _, err := btrfsctl.Quotas(dir)
	if err != nil || mode != btrfsctl.QuotaNone {
		return err
	}
	return btrfsctl.EnableQuotas(dir)
}

// lies returns the devices, if they are the pool's own.
func (p *Pool) lies() string {
	if p.disk == nil {
		return ""
	}
	note := "; " + p.disk.Note()
	if len(p.disk.Devices) > 1 {
		note += fmt.Sprintf(": data %s, metadata %s", btrfsctl.Profile(p.disk.ID, "data"),
			btrfsctl.Profile(p.disk.ID, "metadata"))
	}
	return note
}
