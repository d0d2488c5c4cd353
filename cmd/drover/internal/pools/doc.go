// Package pools has the commands of drover pool.
package pools
