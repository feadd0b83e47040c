//! Several processes that train together (data parallel): who they are, as launchers say it in the environment, and the mean of
//! their gradients over c10d's TCPStore.

use std::fmt::Display;
use std::time::Duration;

use tch::{Device, Kind, TchError, Tensor};

use super::TrainError;
use crate::runtime::nccl::{Communicator, Nccl, UniqueId};
use crate::runtime::store::Store;

/// How long the others may take to hear that the first one has failed.
const TO_HEAR: Duration = Duration::from_secs(2);

/// c10d's own.
const PORT: u16 = 29_500;

/// Who this process is among all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// From 0 on each machine: its device.
    pub local_rank: usize,
    /// Where they meet.
    host: String,
    port: u16,
    /// Rank 0 serves the store, unless the launcher does.
    is_server: bool,
}

/// Names of rank, size and local rank: torchrun's, Open MPI's, and Hydra's (MPICH, Intel MPI), whose processes may see those of the
/// Slurm step that started them; Slurm's for a step, and PMI's.
const LAUNCHERS: [[&str; 3]; 5] = [
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    ["PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK"],
];
/// Slurm's for a job; within a job's script, which is no step, one process is alone.
const SLURM_JOB: [&str; 3] = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"];

impl Place {
    /// Where they meet.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// By variables as launchers set them; `None` for a process alone.
    ///
    /// # Errors
    /// Variables that make no sense.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, TrainError> {
        let number = |name: &str| -> Result<Option<usize>, TrainError> {
            let Some(text) = variable(name) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| TrainError::Processes(format!("{name} is {text:?}, which is no number")))
        };
        let job = variable("SLURM_JOB_ID").is_none().then_some(SLURM_JOB);
        for [rank_name, size_name, local_name] in LAUNCHERS.into_iter().chain(job) {
            let (Some(rank), Some(size)) = (number(rank_name)?, number(size_name)?) else { continue };
            if local_name == "MPI_LOCALRANKID" && variable(local_name).is_none() {
                continue;
            }
            if size <= 1 {
                return Ok(None);
            }
            if rank >= size {
                let found = format!("{rank_name} is {rank} and {size_name} {size}: ranks count from 0");
                return Err(TrainError::Processes(found));
            }
            let address = variable("MASTER_ADDR").or_else(|| variable("SLURM_LAUNCH_NODE_IPADDR"));
            let port = number("MASTER_PORT")?.map_or(Ok(PORT), u16::try_from);
            let is_hosted = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
            return Ok(Some(Self {
                rank,
                size,
                local_rank: number(local_name)?.unwrap_or(0),
                host: address.unwrap_or_else(|| "127.0.0.1".into()),
                port: port.map_err(|_| TrainError::Processes("MASTER_PORT is no port".into()))?,
                is_server: rank == 0 && !is_hosted,
            }));
        }
        Ok(None)
    }
}

/// Which items a process takes: of each `size * batch` in a row the `rank`-th batch.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Where the row begins.
    pub first: u64,
    /// Items of a micro-batch.
    pub batch: u64,
    /// This process.
    pub rank: u64,
    /// All of them.
    pub size: u64,
}

impl Share {
    /// The number of the `i`-th item of this process.
    pub fn item(&self, i: u64) -> u64 {
        self.first + i / self.batch * self.batch * self.size + self.rank * self.batch + i % self.batch
    }
}

/// All processes of a training, seen by one of them.
pub struct World {
    rank: usize,
    size: usize,
    store: Option<Store>,
    /// Gradients on CUDA devices go this way, where it was asked for.
    nccl: Option<Communicator>,
    /// Means that were made.
    rounds: u64,
}

impl World {
    /// One process.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, store: None, nccl: None, rounds: 0 }
    }

    /// Waits until all have met, and later for each of them, at most so long.
    ///
    /// # Errors
    /// Where one does not come.
    pub fn connect(place: &Place, timeout: Duration) -> Result<Self, TrainError> {
        let Place { rank, size, host, port, is_server, .. } = place;
        // A launcher that starts all again keeps the store.
        let again = std::env::var("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        let store = Store::open(host, *port, *is_server, &format!("coz{again}"), timeout);
        let store = store.map_err(|error| {
            TrainError::Processes(format!("rank {rank} of {size} finds no store at {host}:{port}: {error}"))
        })?;
        let mut world = Self { rank: *rank, size: *size, store: Some(store), nccl: None, rounds: 0 };
        world.all_reduce_mean(&mut [0.0])?;
        Ok(world)
    }

    /// Lets gradients go by NCCL between the devices, rather than over the store.
    ///
    /// # Errors
    /// Where it cannot be loaded, or the others do not come.
    pub fn use_nccl(&mut self, device: Device) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        let failed = |error: TchError| TrainError::Processes(format!("rank {} and NCCL: {error}", self.rank));
        if !device.is_cuda() {
            return Err(failed(TchError::Torch("it works between CUDA devices alone".into())));
        }
        let library = Nccl::load(None).map_err(failed)?;
        let key = "nccl";
        let mut id = UniqueId([0; 128]);
        if self.is_first() {
            id = library.unique_id().map_err(failed)?;
            store.set(key, &id.0).map_err(failed)?;
        } else {
            store.get(key, &mut id.0).map_err(failed)?;
        }
        self.nccl = Some(library.join(id, self.rank, self.size, device).map_err(failed)?);
        Ok(())
    }

    /// All have the same number, by which what they were given can be compared.
    ///
    /// # Errors
    /// Where this one's is another than the first one's.
    pub fn check_same(&self, number: u64, what: &str) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        let failed = |error: TchError| TrainError::Processes(format!("rank {} could not compare: {error}", self.rank));
        if self.is_first() {
            return store.set("same", &number.to_le_bytes()).map_err(failed);
        }
        let mut first = [0; 8];
        store.get("same", &mut first).map_err(failed)?;
        match u64::from_le_bytes(first) == number {
            true => Ok(()),
            false => Err(TrainError::Processes(format!("rank {} has another {what} than rank 0", self.rank))),
        }
    }

    /// This one's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many they are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this one writes files.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The end: the first one, whose store the others have read, waits until they have.
    ///
    /// # Errors
    /// Where one does not answer.
    pub fn finish(&self) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        let key = |rank: usize| format!("end/{rank}");
        let failed = |error| TrainError::Processes(format!("rank {} could not leave: {error}", self.rank));
        match self.rank {
            0 => (1..self.size).try_for_each(|rank| store.get(&key(rank), &mut [0]).map_err(failed)),
            rank => store.set(&key(rank), &[0]).map_err(failed),
        }
    }

    /// The others stop too.
    pub fn fail(&self, error: &dyn Display) {
        if let Some(store) = &self.store {
            // Where it cannot be said any more they wait until the timeout.
            _ = store.fail(&format!("rank {} has stopped: {error}", self.rank));
            if self.is_first() {
                // The store ends with this process.
                std::thread::sleep(TO_HEAR);
            }
        }
    }

    /// Each number becomes the mean of all processes' ones, the same in all of them to the bit.
    ///
    /// # Errors
    /// Where one does not answer.
    pub fn all_reduce_mean(&mut self, numbers: &mut [f32]) -> Result<(), TrainError> {
        let Some(store) = &self.store else { return Ok(()) };
        let (rank, size, round) = (self.rank, self.size, self.rounds);
        self.rounds += 1;
        let key = |round: u64, rank: usize| format!("{round}/{rank}");
        let failed = |of: usize, error| TrainError::Processes(format!("rank {rank} waited for rank {of}: {error}"));
        if rank > 0 {
            store.set(&key(round, rank), bytemuck::cast_slice(numbers)).map_err(|error| failed(0, error))?;
            return store.get(&key(round, 0), bytemuck::cast_slice_mut(numbers)).map_err(|error| failed(0, error));
        }
        let mut others = vec![0.0_f32; numbers.len()];
        for other in 1..size {
            let gone = |error| failed(other, error);
            store.get(&key(round, other), bytemuck::cast_slice_mut(&mut others)).map_err(gone)?;
            store.delete(&key(round, other)).map_err(gone)?;
            numbers.iter_mut().zip(&others).for_each(|(sum, number)| *sum += number);
        }
        numbers.iter_mut().for_each(|sum| *sum /= size as f32);
        store.set(&key(round, 0), bytemuck::cast_slice(numbers)).map_err(|error| failed(0, error))?;
        // All have come to this round, so nobody needs the one before.
        if round > 0 {
            store.delete(&key(round - 1, 0)).map_err(|error| failed(0, error))?;
        }
        Ok(())
    }

    /// The same of tensors in float32, and of some numbers beside them.
    ///
    /// # Errors
    /// As above; what libtorch says.
    pub fn all_reduce_mean_tensors(&mut self, tensors: &mut [Tensor], beside: &mut [f64]) -> Result<(), TrainError> {
        if self.size == 1 {
            return Ok(());
        }
        let flat: Vec<Tensor> = tensors.iter().map(|tensor| tensor.f_view([-1])).collect::<Result<_, _>>()?;
        let mut flat = Tensor::f_cat(&flat, 0)?.f_to_kind(Kind::Float)?;
        let device = flat.device();
        let mut numbers: Vec<f32> = beside.iter().map(|&number| number as f32).collect();
        // Over the store in any case: a process that is gone is noticed there, where NCCL would wait for ever.
        if self.nccl.is_none() {
            numbers.extend(Vec::<f32>::try_from(flat.f_to_device(Device::Cpu)?)?);
        }
        self.all_reduce_mean(&mut numbers)?;
        let (means, rest) = numbers.split_at(beside.len());
        beside.iter_mut().zip(means).for_each(|(number, &mean)| *number = mean.into());
        match &self.nccl {
            Some(nccl) => {
                nccl.sum(&mut flat)?;
                flat = flat.f_div_scalar(self.size as f64)?;
            }
            None => flat = Tensor::f_from_slice(rest)?.f_to_device(device)?,
        }
        let mut first = 0;
        for tensor in tensors {
            let count = tensor.numel() as i64;
            *tensor = flat.f_narrow(0, first, count)?.f_view(tensor.size().as_slice())?;
            first += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>, TrainError> {
        let find =
            |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Place::of(&find)
    }

    #[test]
    fn launchers_say_who_a_process_is() {
        let found = |variables: &[(&str, &str)]| {
            place(variables).unwrap().map(|place| (place.rank, place.size, place.local_rank, place.is_server))
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("RANK", "0"), ("WORLD_SIZE", "1")]), None);
        let torchrun = [("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "1234")];
        assert_eq!(found(&torchrun), Some((0, 4, 0, true)));
        assert_eq!(
            found(&[&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat()),
            Some((0, 4, 0, false))
        );
        let step =
            [("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_LOCALID", "1")];
        assert_eq!(found(&step), Some((3, 4, 1, false)));
        let script = [("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(found(&script), None);
        assert_eq!(found(&script[1..]), Some((0, 4, 0, true)));
        assert_eq!(found(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]), Some((1, 2, 0, false)));
        for wrong in [[("RANK", "4"), ("WORLD_SIZE", "4")], [("RANK", "one"), ("WORLD_SIZE", "4")]] {
            assert!(place(&wrong).is_err_and(|error| error.to_string().contains("RANK")));
        }
    }

    #[test]
    fn all_get_the_same_mean() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let work = move |rank: usize| {
            let host = "127.0.0.1".to_owned();
            let place = Place { rank, size: 3, local_rank: rank, host, port, is_server: rank == 0 };
            let mut world = World::connect(&place, Duration::from_secs(20)).unwrap();
            let means = (0..4).map(|round| {
                let mut tensors =
                    [Tensor::from_slice(&[rank as f32, 1.0]).view([1, 2]), Tensor::from_slice(&[round as f32])];
                let mut beside = [rank as f64 * 3.0];
                world.all_reduce_mean_tensors(&mut tensors, &mut beside).unwrap();
                assert_eq!(tensors[0].size(), [1, 2]);
                (Vec::<f32>::try_from(tensors[0].view([-1])).unwrap(), tensors[1].double_value(&[0]), beside[0])
            });
            let means: Vec<_> = means.collect();
            world.finish().unwrap();
            means
        };
        let threads: Vec<_> = (0..3).map(|rank| std::thread::spawn(move || work(rank))).collect();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for means in &all {
            let expected: Vec<_> = (0..4).map(|round| (vec![1.0, 1.0], f64::from(round), 3.0)).collect();
            assert_eq!(*means, expected);
        }
    }

    #[test]
    fn processes_share_what_one_would_take() {
        let share = |rank: u64| Share { first: 100, batch: 2, rank, size: 3 };
        let of = |rank: u64| (0..4).map(|i| share(rank).item(i)).collect::<Vec<_>>();
        assert_eq!([of(0), of(1), of(2)], [[100, 101, 106, 107], [102, 103, 108, 109], [104, 105, 110, 111]]);
    }
}
