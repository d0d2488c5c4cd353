// Package snapshots has the commands of drover snapshot.
package snapshots
