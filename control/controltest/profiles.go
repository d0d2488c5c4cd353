package controltest

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// ProfileSet replaces profiles.yaml.
type ProfileSet struct {
	ByName map[string]dataset.Profile
}

// NewProfileSet returns the profiles bronze (the default), silver, gold, fleeting and kept.
func NewProfileSet() *ProfileSet {
	trash := dataset.OnDelete{Mode: dataset.DeleteTrash, Trash: dataset.Duration(72 * time.Hour)}
	keep := dataset.Keep{Last: 4, Hourly: 24}
	p := &ProfileSet{ByName: map[string]dataset.Profile{}}
	for _, x := range []dataset.Profile{
		{Name: "bronze", OnDelete: trash, Quiesce: dataset.QuiesceFreeze},
		{Name: "silver", Size: 10 * dataset.GiB, Snapshots: dataset.Snapshots{Required: true}, OnDelete: trash},
		{
			Name: "gold", Size: 20 * dataset.GiB, Filesystem: dataset.Filesystem{Type: "xfs"},
			Quiesce: dataset.QuiesceFreeze, OnDelete: trash,
			Snapshots: dataset.Snapshots{Required: true, Schedule: "*/15 * * * *", Keep: keep},
		},
		{Name: "fleeting", OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge}},
		{Name: "kept", OnDelete: dataset.OnDelete{Mode: dataset.DeleteKeep}},
	} {
		x.Revision = "r1-" + x.Name
		p.ByName[x.Name] = x
	}
	return p
}

// Get returns a profile.
func (p *ProfileSet) Get(name string) (dataset.Profile, error) {
	if name == "" {
		name = "bronze"
	}
	if x, ok := p.ByName[name]; ok {
		return x.Clone(), nil
	}
	var have []string
	for n := range p.ByName {
		have = append(have, n)
	}
	return dataset.Profile{}, dataset.Errorf(dataset.ErrInvalid, "unknown profile %q (available: %s)",
		dataset.Clip(name), dataset.FormatChoices(have))
}

// Default implements control.Profiles.
func (p *ProfileSet) Default() string { return "bronze" }

// All returns all profiles.
func (p *ProfileSet) All() (all []dataset.Profile) {
	for _, x := range p.ByName {
		all = append(all, x)
	}
	return all
}

// AddAutoFailover adds the profile "auto", whose volumes fail over without a request.
func AddAutoFailover(p *ProfileSet, replicas int) {
	auto := p.ByName["silver"]
	auto.Name, auto.Revision = "auto", "r1-auto"
	auto.Replicas = dataset.Replicas{Count: replicas, Every: dataset.Duration(30 * time.Second)}
	auto.Failover = dataset.Failover{
		Auto: true, MaxLoss: dataset.Duration(time.Minute), Fence: dataset.Fence{Kind: dataset.FenceGuard},
	}
	p.ByName["auto"] = auto
}
