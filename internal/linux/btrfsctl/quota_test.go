package btrfsctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func (p pool) quotas(want btrfsctl.Quota) {
	p.Helper()
	if mode, settled, err := btrfsctl.Quotas(p.dir); mode != want || !settled || err != nil {
		p.Errorf("quotas are %s, %v, %v; want %s", mode, settled, err, want)
	}
}

func TestQuotas(t *testing.T) {
	p := newPool(t)
	sub := p.create("sub")
	p.quotas(btrfsctl.QuotaNone)
	assert.ErrorIsf(t, btrfsctl.Limit(sub, 1<<20), unix.ENOTCONN, "a limit without quotas")
	if _, err := btrfsctl.Count(sub); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("counted without quotas: %v", err)
	}
	scratch.Quota(t, p.path, "full")
	p.quotas(btrfsctl.QuotaFull)
	scratch.Run(t, "btrfs", "quota", "disable", p.path)
	p.quotas(btrfsctl.QuotaNone)
	scratch.Quota(t, p.path, "simple")
	p.quotas(btrfsctl.QuotaSimple)
}

func TestLimit(t *testing.T) {
	for _, mode := range []string{"full", "simple"} {
		p := newPool(t)
		scratch.Quota(t, p.path, mode)
		sub := p.create("sub")
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 0 {
			t.Errorf("%s: counted %+v, %v", mode, c, err)
		}
		require.NoError(t, btrfsctl.Limit(sub, 32<<20))
		big := make([]byte, 40<<20)
		if err := os.WriteFile(filepath.Join(p.path, "sub/f"), big, 0o600); !errors.Is(err, unix.EDQUOT) {
			t.Errorf("%s: wrote more than the limit: %v", mode, err)
		}
		require.NoError(t, unix.Syncfs(int(sub.Fd())))
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 32<<20 || c.Referenced < 30<<20 ||
			c.Referenced > 32<<20 {
			t.Errorf("%s: counted %+v, %v", mode, c, err)
		}
		require.NoError(t, btrfsctl.Limit(sub, 0))
		if c, err := btrfsctl.Count(sub); err != nil || c.Limit != 0 {
			t.Errorf("%s: the limit stays: %+v, %v", mode, c, err)
		}
		assert.NoErrorf(t, os.WriteFile(filepath.Join(p.path, "sub/f"), big, 0o600), "%s", mode)
	}
}

// A snapshot of a subvolume starts with the limit of that subvolume.
func TestCloneHasItsSourcesLimit(t *testing.T) {
	p := newPool(t)
	scratch.Quota(t, p.path, "full")
	sub := p.create("sub")
	require.NoError(t, btrfsctl.Limit(sub, 32<<20))
	require.NoError(t, btrfsctl.Snapshot(p.dir, "clone", sub, false))
	if c, err := btrfsctl.Count(p.open("clone")); err != nil || c.Limit != 32<<20 {
		t.Errorf("counted %+v, %v", c, err)
	}
}
