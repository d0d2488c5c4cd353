package pool

import (
	"slices"
	"time"
)

// TrimEvery is how often the devices of a pool are told which blocks are free, unless drover.yaml says otherwise.
const TrimEvery = 7 * 24 * time.Hour

// TrimEvery returns how often the devices of a pool are told which blocks are free; negative: never.
func (p *Pools) TrimEvery(name string) time.Duration {
	i := slices.IndexFunc(p.Configured, func(c Config) bool { return c.Name == name })
	if i < 0 || p.Configured[i].Trim == 0 {
		return TrimEvery
	}
	return p.Configured[i].Trim
}
